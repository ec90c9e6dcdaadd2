/** The places of a key-value cache: each is one text's at a time, and whoever waits longest is next. */
export class Slots {
  readonly #free: number[];
  readonly #waiting = new Set<(slot: number) => void>();

  constructor(count: number) {
    this.#free = Array.from({ length: count }, (_, index) => index);
  }

  /** A place at once; undefined where there is none, or others wait for one. */
  tryTake(): number | undefined {
    return this.#waiting.size > 0 ? undefined : this.#free.pop();
  }

  /** A place when one is free. Rejects with what `signal` is aborted with. */
  async take(signal: AbortSignal): Promise<number> {
    signal.throwIfAborted();
    const free = this.tryTake();
    if (free !== undefined) return free;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const abort = () => {
      this.#waiting.delete(resolve);
      reject(signal.reason);
    };
    this.#waiting.add(resolve);
    signal.addEventListener("abort", abort, { once: true });
    try {
      return await promise;
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  give(slot: number): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#free.push(slot);
      return;
    }
    this.#waiting.delete(next);
    next(slot);
  }
}
