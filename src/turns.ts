/** What waits: for its turn, or until a signal is aborted. */

import { CamemError } from "./errors.ts";

/** The error for an aborted signal; a reason that is an error of ours, as when the allocator is closing, stands for itself. */
export function aborted(signal: AbortSignal): CamemError {
  if (signal.reason instanceof CamemError) return signal.reason;
  return new CamemError("ABORTED", "the signal was aborted; nothing has changed", { cause: signal.reason });
}

/** What `pending` comes to, unless `signal` is aborted before: then a rejection with what `reasonOf` tells. */
export async function unlessAborted<T>(
  pending: PromiseLike<T>,
  signal: AbortSignal,
  reasonOf: (signal: AbortSignal) => unknown = aborted,
): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = () => reject(reasonOf(signal));
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await Promise.race([pending, promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Runs what it is given one after the other, in the order of asking. */
export class Turns {
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
