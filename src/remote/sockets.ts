/** Where the control sockets of engines on this machine are. */

import { existsSync, lstatSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

/** The socket of an engine. */
export interface EngineSocket {
  /** The number of the engine's process. */
  readonly pid: number;
  readonly path: string;
}

/** The names in a folder; none where it does not exist or is not ours to read. */
function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    const { code } = error as { readonly code?: string };
    if (code === "ENOENT" || code === "EACCES" || code === "ENOTDIR") return [];
    throw error;
  }
}

/**
 * The folders that engines of this user make their sockets in, the most likely first; for root, those of every user. An engine
 * may have been started with another environment than this process.
 */
function socketFolders({ CAMEM_SOCKET_DIR: own, XDG_RUNTIME_DIR: runtime }: typeof process.env): string[] {
  const user = process.geteuid?.() ?? 0;
  const named = [own, runtime && join(runtime, "camem")].filter((path) => path !== undefined && path !== "");
  const usual = [`/run/user/${user}/camem`, `/tmp/camem-${user}`];
  const others =
    user === 0
      ? [
          ...namesIn("/run/user").map((name) => `/run/user/${name}/camem`),
          ...namesIn("/tmp").flatMap((name) => (/^camem-\d+$/.test(name) ? [`/tmp/${name}`] : [])),
        ]
      : [];
  return [...new Set([...(named as string[]), ...usual, ...others])];
}

/** The sockets of engines on this machine, including those that an engine left behind when it was killed. */
export function engineSockets(environment: typeof process.env = process.env): EngineSocket[] {
  return socketFolders(environment).flatMap((folder) =>
    namesIn(folder)
      .flatMap((name) => {
        const pid = /^(\d+)\.sock$/.exec(name)?.[1];
        return pid === undefined ? [] : [{ pid: Number(pid), path: join(folder, name) }];
      })
      .sort((first, second) => first.pid - second.pid),
  );
}

/** The path of the socket of a process; where there is none, the path that it should have. */
export function socketPath(pid: number): string {
  const found = engineSockets().find((socket) => socket.pid === pid);
  return found?.path ?? join(socketFolders(process.env)[0] ?? "/tmp", `${pid}.sock`);
}

/** Removes a socket that nothing serves, if its engine has ended. One that is starting serves it in a moment. */
export function removeLeftBehind({ pid, path }: EngineSocket): void {
  if (existsSync(`/proc/${pid}`)) return;
  try {
    if (lstatSync(path).isSocket()) rmSync(path);
  } catch {
    // Removed meanwhile, another user's, or in a read-only folder: it does no harm.
  }
}
