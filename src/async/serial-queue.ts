import type { CamemError } from "../errors.ts";
import { aborted } from "./abortable.ts";

/** Runs tasks one after the other, in the order of the calls. */
export class SerialQueue {
  readonly #ending = new AbortController();
  #last: Promise<unknown> = Promise.resolve();

  /** Aborted by {@link end}. */
  get ending(): AbortSignal {
    return this.#ending.signal;
  }

  /**
   * Runs `task` once all earlier tasks have settled. Aborting `signal` ends the wait at once; a running task must watch the
   * signal that it receives.
   */
  run<T>(signal: AbortSignal | undefined, task: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const either = signal ? AbortSignal.any([signal, this.ending]) : this.ending;
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const abort = () => reject(aborted(either));
    if (either.aborted) abort();
    either.addEventListener("abort", abort, { once: true });
    const start = async () => {
      // From here on the task itself rejects, since only it knows when it is too late to abort.
      either.removeEventListener("abort", abort);
      if (either.aborted) return;
      try {
        resolve(await task(either));
      } catch (error) {
        reject(error);
      }
    };
    this.#last = this.#last.then(start, start);
    return promise;
  }

  /** Aborts the running task and all waiting ones with `reason`; resolves when the running task has settled. */
  async end(reason: CamemError): Promise<void> {
    this.#ending.abort(reason);
    await this.#last;
  }
}
