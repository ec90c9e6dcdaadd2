import type { CamemError } from "../errors.ts";
import { aborted } from "./abortable.ts";
import type { Clock } from "./clock.ts";

/** Bounds of a {@link Deferred}. */
interface DeferredLimits {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds from now; `Infinity` for no deadline. */
  readonly deadlineMs: number;
  readonly clock: Clock;
  /** The error for a passed deadline. */
  readonly expired: () => CamemError;
}

/** A promise that its holder settles, unless a signal or a deadline rejects it first. */
export class Deferred<T = void> {
  readonly promise: Promise<T>;
  readonly signal: AbortSignal | undefined;
  #settled = false;
  readonly #resolvers: PromiseWithResolvers<T>;
  readonly #abort: () => void;
  readonly #cancelTimer: (() => void) | undefined;

  constructor({ signal, deadlineMs, clock, expired }: DeferredLimits) {
    this.#resolvers = Promise.withResolvers<T>();
    this.promise = this.#resolvers.promise;
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
    this.#settle();
    this.#resolvers.resolve(value);
  }

  reject(error: CamemError): void {
    this.#settle();
    this.#resolvers.reject(error);
  }

  #settle(): void {
    this.#settled = true;
    this.signal?.removeEventListener("abort", this.#abort);
    this.#cancelTimer?.();
  }
}
