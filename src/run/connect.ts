/** Finds the memory of engines by their control sockets. */

import { CamemError } from "../errors.ts";
import { isMember } from "../process/family.ts";
import { RemoteAllocator, type RemoteOptions } from "../remote/remote-allocator.ts";
import { engineSockets } from "../remote/sockets.ts";
import type { EngineConnection } from "./attachable-allocator.ts";

/**
 * Connects to the memory of the first process of a run that uses a device; undefined while none does.
 *
 * @throws CamemError `ENGINE_REFUSED`, or as {@link RemoteAllocator.connect} for its options
 */
export async function connectToRun(
  runId: string,
  options: RemoteOptions = {},
): Promise<EngineConnection | undefined> {
  const socket = engineSockets().find(({ pid }) => isMember(pid, runId));
  if (socket === undefined) return undefined;
  try {
    return await connectSocket(socket.path, options);
  } catch (error) {
    // It is just starting to use the device, or has just ended.
    if (error instanceof CamemError && /^(CLOSED|ENGINE_GONE|ENGINE_NOT_FOUND)$/.test(error.code))
      return undefined;
    throw error;
  }
}

/** @throws CamemError as {@link RemoteAllocator.connect} */
export async function connectSocket(path: string, options: RemoteOptions = {}): Promise<EngineConnection> {
  const allocator = await RemoteAllocator.connect({ path }, options);
  const { promise: gone, resolve } = Promise.withResolvers<unknown>();
  allocator.subscribe((event) => {
    if (event.type === "gone") resolve(event.error);
  });
  return Object.assign(allocator, { gone });
}
