/** The longest delay of the event loop. */

import { monitorEventLoopDelay } from "node:perf_hooks";

const blockMs = 50;
/** Recorded before and after the work, so that delays at its edges count. */
const edgeMs = 5;

export class DelayMonitor {
  readonly #histogram = monitorEventLoopDelay({ resolution: 1 });

  private constructor() {}

  /** @throws when it misses a deliberate block of the event loop */
  static async create(): Promise<DelayMonitor> {
    const monitor = new DelayMonitor();
    const seenMs = await monitor.longest(() => Bun.sleepSync(blockMs));
    if (seenMs < blockMs * 0.9)
      throw new Error(`monitorEventLoopDelay saw ${seenMs} ms while the loop was blocked for ${blockMs} ms`);
    return monitor;
  }

  /** The longest delay during `run`, in milliseconds. */
  async longest(run: () => Promise<unknown> | unknown): Promise<number> {
    this.#histogram.reset();
    this.#histogram.enable();
    await Bun.sleep(edgeMs);
    await run();
    await Bun.sleep(edgeMs);
    this.#histogram.disable();
    return this.#histogram.max / 1e6;
  }
}
