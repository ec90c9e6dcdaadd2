import { aborted } from "../../async/abortable.ts";
import { CamemError } from "../../errors.ts";

/** What a request learns at a checkpoint. */
export interface CheckpointResult {
  /** True when the request was parked here. */
  readonly parked: boolean;
  /** Tags that lost their content meanwhile, by the engine's own names. Recompute it, such as a KV cache from its tokens. */
  readonly lostTags: readonly string[];
}

/**
 * The right of one request to use the engine's memory. No memory moves while a lease is held, except while its request is parked
 * at a checkpoint. Release it, or declare it with `using`.
 */
export interface Lease extends Disposable {
  /**
   * Aborted when the request must end early: by a sleep in mode `abort`, by the signal passed to `admit`, or by `close`. The
   * lease still counts until it is released.
   */
  readonly signal: AbortSignal;
  /**
   * Await it where the request can halt, such as between decode steps. Returns at once while the engine is awake. During a sleep
   * or pause in mode `keep` it parks the request, and returns when the engine is awake again.
   *
   * @throws CamemError `ABORTED` or `CLOSED` when `signal` is aborted: touch no device memory then, and release the lease;
   * `STATE_CONFLICT` when the lease is already released
   */
  checkpoint(): Promise<CheckpointResult>;
  /** Gives the right back. Releasing twice does nothing. */
  release(): void;
}

export function releasedError(): CamemError {
  return new CamemError(
    "STATE_CONFLICT",
    "this lease is released, so its request can no longer use the engine",
  );
}

interface LeaseOwner {
  parkIfQuiescing(lease: AdmittedLease): Promise<CheckpointResult>;
  forget(lease: AdmittedLease): void;
}

/** A lease of an admitted request. */
export class AdmittedLease implements Lease {
  state: "running" | "parked" | "released" = "running";
  readonly #owner: LeaseOwner;
  readonly #abort = new AbortController();
  readonly #requestSignal: AbortSignal | undefined;
  readonly #follow = () => this.#abort.abort(this.#requestSignal?.reason);

  constructor(owner: LeaseOwner, requestSignal: AbortSignal | undefined) {
    this.#owner = owner;
    this.#requestSignal = requestSignal;
    requestSignal?.addEventListener("abort", this.#follow, { once: true });
    if (requestSignal?.aborted) this.#follow();
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  async checkpoint(): Promise<CheckpointResult> {
    if (this.state === "released") throw releasedError();
    if (this.signal.aborted) throw aborted(this.signal);
    return this.#owner.parkIfQuiescing(this);
  }

  abort(reason: CamemError): void {
    this.#abort.abort(reason);
  }

  release(): void {
    if (this.state === "released") return;
    this.state = "released";
    this.#requestSignal?.removeEventListener("abort", this.#follow);
    this.#owner.forget(this);
  }

  [Symbol.dispose](): void {
    this.release();
  }
}
