/** Pauses. */

export { setTimeout as sleep } from "node:timers/promises";

const never = new Int32Array(new SharedArrayBuffer(4));

/** Blocks this thread, and its event loop. */
export function sleepSync(milliseconds: number): void {
  Atomics.wait(never, 0, 0, milliseconds);
}
