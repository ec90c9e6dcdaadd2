import { CamemError } from "../errors.ts";
import type { Clock } from "./clock.ts";

/** The error for an aborted signal; a reason that is an error of ours stands for itself. */
export function abortedError(signal: AbortSignal): CamemError {
  if (signal.reason instanceof CamemError) return signal.reason;
  return new CamemError("ABORTED", "the signal was aborted; nothing has changed", { cause: signal.reason });
}

/** What ends a wait before its time. */
export interface WaitLimits {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds from now; `Infinity` for none. */
  readonly deadlineMs: number;
  readonly clock: Clock;
  /** The error for a deadline that passed. */
  readonly expired: () => CamemError;
}

/** A promise that is settled by whoever holds it, by a signal or by a deadline, whichever is first. */
export class Wait<T = void> {
  readonly promise: Promise<T>;
  readonly signal: AbortSignal | undefined;
  #settled = false;
  readonly #settle: PromiseWithResolvers<T>;
  readonly #abort: () => void;
  readonly #cancelTimer: (() => void) | undefined;

  constructor({ signal, deadlineMs, clock, expired }: WaitLimits) {
    this.#settle = Promise.withResolvers<T>();
    this.promise = this.#settle.promise;
    this.signal = signal;
    this.#abort = () => signal && this.reject(abortedError(signal));
    signal?.addEventListener("abort", this.#abort, { once: true });
    if (Number.isFinite(deadlineMs))
      this.#cancelTimer = clock.after(deadlineMs, () => this.reject(expired()));
    if (signal?.aborted) this.#abort();
  }

  get settled(): boolean {
    return this.#settled;
  }

  resolve(value: T | PromiseLike<T>): void {
    this.#letGo();
    this.#settle.resolve(value);
  }

  reject(error: CamemError): void {
    this.#letGo();
    this.#settle.reject(error);
  }

  #letGo(): void {
    this.#settled = true;
    this.signal?.removeEventListener("abort", this.#abort);
    this.#cancelTimer?.();
  }
}

/** What `pending` comes to, unless `signal` is aborted before. */
export async function unlessAborted<T>(pending: PromiseLike<T>, signal: AbortSignal): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = () => reject(abortedError(signal));
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

  /**
   * Runs `run` when all that was asked for before has ended. Aborting `signal` ends the wait at once; after that `run` heeds
   * it, by the signal that it is given.
   */
  take<T>(signal: AbortSignal | undefined, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const either = signal ? AbortSignal.any([signal, this.#ending.signal]) : this.#ending.signal;
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const abort = () => reject(abortedError(either));
    if (either.aborted) abort();
    either.addEventListener("abort", abort, { once: true });
    const start = async () => {
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
