/** Finds the memory of engines by their control sockets. */

import type { EngineConnection } from "./attachable-allocator.ts";

/** How the memory of an engine is planned. */
export interface RemotePlanning {
  readonly hostBudget?: number | undefined;
  readonly spillDir?: string | undefined;
}

/** Connects to the memory of the first process of a run that uses a device; undefined while none does. */
export async function connectToRun(
  _runId: string,
  _planning: RemotePlanning = {},
): Promise<EngineConnection | undefined> {
  return undefined;
}

/** Connects to the control socket at a path. */
export async function connectSocket(
  _path: string,
  _planning: RemotePlanning = {},
): Promise<EngineConnection> {
  throw new TypeError("not yet");
}
