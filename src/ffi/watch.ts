/** The one call of an engine's protocol that is made without blocking: its reply waits until something has changed. */

import type { EngineInfo } from "./engine.ts";
import { decode } from "./struct.ts";
import * as abi from "./symbols.gen.ts";

const headBytes = 8;
const argumentBytes = 8;

/** The bytes of each reply, and of the greeting that precedes the first. */
export const watchReplyBytes = headBytes + abi.EngineInfo.sizeBytes;
export const greetingBytes = abi.Greeting.sizeBytes;

/** Asks for the engine's state once it has seen more, or other, than `changes` changes. */
export function watchRequest(changes: number): Uint8Array {
  const bytes = new Uint8Array(headBytes + argumentBytes);
  const words = new Uint32Array(bytes.buffer);
  words.set([argumentBytes, abi.servedCalls.indexOf("camem_engine_watch"), changes, changes / 2 ** 32]);
  return bytes;
}

/** The state in a whole reply; undefined where the engine refused. */
export function readWatchReply(bytes: Uint8Array): EngineInfo | undefined {
  const head = new DataView(bytes.buffer, bytes.byteOffset, headBytes);
  if (head.getInt32(4, true) !== abi.Status.ok) return undefined;
  return decode(abi.EngineInfo, bytes, headBytes);
}
