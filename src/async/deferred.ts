import type { CamemError } from "../errors.ts";
import { aborted } from "./abortable.ts";
import type { Clock } from "./clock.ts";

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
    this.#abort = () => signal && this.reject(aborted(signal));
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
