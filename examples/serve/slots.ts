/** The slots of a key-value cache. Each holds one text at a time; requests take them in order of arrival. */
export class Slots {
  readonly #free: number[];
  readonly #waiting = new Set<(slot: number) => void>();

  constructor(count: number) {
    this.#free = Array.from({ length: count }, (_, index) => index);
  }

  /** A free slot; undefined if there is none or if others wait for one. */
  tryTake(): number | undefined {
    return this.#waiting.size > 0 ? undefined : this.#free.pop();
  }

  /** Waits for a free slot. Rejects with the reason of `signal`. */
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
