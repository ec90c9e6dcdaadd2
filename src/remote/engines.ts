/** The engines on this machine. */

import { CamemError } from "../errors.ts";
import { connectEngine, type EngineConnection } from "../ffi/index.ts";
import { SegmentTable } from "../memory/table.ts";
import { type TagUsage, usageByTag } from "../memory/usage.ts";
import { type EngineStatus, statusOf } from "./engine-status.ts";
import { engineSockets, removeLeftBehind } from "./sockets.ts";

/** Memory of an engine on one device, in bytes. */
interface EngineDeviceUsage {
  /** The device number. */
  readonly device: number;
  /** Device memory that the engine's segments hold. */
  readonly mappedBytes: number;
  /** Bytes of segments that are asleep. */
  readonly asleepBytes: number;
  /** Free memory of the device, across all processes. */
  readonly freeBytes: number;
}

/** An engine and its memory, at one moment. */
export interface EngineOverview {
  /** The path of its control socket. */
  readonly socket: string;
  /** What it reports about itself. */
  readonly status: EngineStatus;
  /** `partly asleep` while some of its memory is awake and some is asleep; `unstarted` before it uses a device. */
  readonly state: "unstarted" | "awake" | "asleep" | "partly asleep" | "moving";
  /** Its memory by device. */
  readonly devices: readonly EngineDeviceUsage[];
  /** Its memory by tag. */
  readonly tags: Readonly<Record<string, TagUsage>>;
}

/** An engine that cannot be asked. */
export interface UnreachableEngine {
  /** The path of its control socket. */
  readonly socket: string;
  /** The number of its process. */
  readonly pid: number;
  /** Why it cannot be asked. */
  readonly error: CamemError;
}

/** For one of several engines; the others must not wait for one that is stopped. */
const timeoutMs = 2_000;

/** Every engine on this machine that this user may ask. Sockets of processes that have ended are removed. */
export function listEngines(): (EngineOverview | UnreachableEngine)[] {
  return engineSockets().flatMap(({ pid, path }): (EngineOverview | UnreachableEngine)[] => {
    try {
      return [overviewOf(path)];
    } catch (error) {
      if (!(error instanceof CamemError)) throw error;
      if (error.code !== "ENGINE_NOT_FOUND") return [{ socket: path, pid, error }];
      removeLeftBehind({ pid, path });
      return [];
    }
  });
}

function overviewOf(path: string): EngineOverview {
  const connection = connectEngine(path, timeoutMs);
  try {
    const status = statusOf(connection.native.engineInfo());
    return { socket: path, status, ...memoryOf(connection, status) };
  } finally {
    connection.close();
  }
}

function memoryOf(
  { native }: EngineConnection,
  status: EngineStatus,
): Pick<EngineOverview, "state" | "devices" | "tags"> {
  const nothing = { state: "unstarted", devices: [], tags: {} } as const;
  if (status.gate === "unstarted") return nothing;
  try {
    const table = new SegmentTable(native, () => undefined);
    const { groups } = table.summary();
    const devices = new Map<number, { mappedBytes: number; asleepBytes: number }>();
    for (const { device, committedBytes, state, sizeBytes } of groups) {
      const sums = devices.get(device) ?? { mappedBytes: 0, asleepBytes: 0 };
      sums.mappedBytes += committedBytes;
      sums.asleepBytes += state === "mapped" ? 0 : sizeBytes;
      devices.set(device, sums);
    }
    const tags = usageByTag(table);
    const used = [...devices].sort(([first], [second]) => first - second);
    return {
      state: stateOf(status, Object.values(tags)),
      devices: used.map(([device, sums]) => ({
        device,
        ...sums,
        freeBytes: native.memoryInfo(device).freeBytes,
      })),
      tags,
    };
  } catch (error) {
    // It has let go of its devices meanwhile.
    if (error instanceof CamemError && error.code === "CLOSED") return nothing;
    throw error;
  }
}

function stateOf({ gate }: EngineStatus, tags: readonly TagUsage[]): EngineOverview["state"] {
  if (gate === "moving") return "moving";
  const states = new Set(tags.filter(({ segments }) => segments > 0).map(({ state }) => state));
  if (states.size === 0 || (states.size === 1 && states.has("awake"))) return "awake";
  return states.size === 1 && states.has("asleep") ? "asleep" : "partly asleep";
}
