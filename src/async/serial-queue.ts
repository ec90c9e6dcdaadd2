import type { CamemError } from "../errors.ts";
import { aborted } from "./abortable.ts";

/** Runs what it is given one after the other, in the order of asking. */
export class SerialQueue {
  readonly #ending = new AbortController();
  #last: Promise<unknown> = Promise.resolve();

  /** Aborted by {@link end}. */
  get ending(): AbortSignal {
    return this.#ending.signal;
  }

  /**
   * Runs `run` when all that was asked for before has ended. Aborting `signal` ends the wait at once; after that `run` heeds
   * it, by the signal that it is given.
   */
  take<T>(signal: AbortSignal | undefined, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const either = signal ? AbortSignal.any([signal, this.ending]) : this.ending;
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const abort = () => reject(aborted(either));
    if (either.aborted) abort();
    either.addEventListener("abort", abort, { once: true });
    const start = async () => {
      // From here on `run` itself heeds the signal, and says when it was too late.
      either.removeEventListener("abort", abort);
      if (either.aborted) return;
      try {
        resolve(await run(either));
      } catch (error) {
        reject(error);
      }
    };
    this.#last = this.#last.then(start, start);
    return promise;
  }

  /** Aborts what runs and what waits, for `reason`, and waits for the end of what runs. */
  async end(reason: CamemError): Promise<void> {
    this.#ending.abort(reason);
    await this.#last;
  }
}
