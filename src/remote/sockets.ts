/** Where the control sockets of engines on this machine are. */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../errors.ts";

/** The socket of an engine. */
export interface EngineSocket {
  /** The number of the engine's process. */
  readonly pid: number;
  readonly path: string;
}

/** The folder that engines of this user make their sockets in. */
export function socketFolder(
  environment: Readonly<Record<string, string | undefined>> = process.env,
): string {
  const { CAMEM_SOCKET_DIR: own, XDG_RUNTIME_DIR: runtime } = environment;
  if (own !== undefined && own !== "") return own;
  if (runtime !== undefined && runtime !== "") return join(runtime, "camem");
  return `/tmp/camem-${process.geteuid?.() ?? 0}`;
}

export function socketPath(pid: number): string {
  return join(socketFolder(), `${pid}.sock`);
}

/** The sockets of this user's engines, including those that an engine left behind when it was killed. */
export function engineSockets(): EngineSocket[] {
  const folder = socketFolder();
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    if (messageOf(error).startsWith("ENOENT")) return [];
    throw error;
  }
  return names
    .flatMap((name) => {
      const pid = /^(\d+)\.sock$/.exec(name)?.[1];
      return pid === undefined ? [] : [{ pid: Number(pid), path: join(folder, name) }];
    })
    .sort((first, second) => first.pid - second.pid);
}
