import { setImmediate } from "node:timers/promises";

/** For this long one slice may block the event loop. */
const sliceMs = 3;

/**
 * Divides long work on the event loop into slices, between which the loop runs other tasks. Ask {@link isOver} after each small
 * piece of the work, and await {@link next} where it is true.
 */
export class TimeSlices {
  #endMs = performance.now() + sliceMs;

  get isOver(): boolean {
    return performance.now() >= this.#endMs;
  }

  /** Lets the event loop run other tasks, then begins the next slice. */
  async next(): Promise<void> {
    await setImmediate();
    this.#endMs = performance.now() + sliceMs;
  }
}
