import { aborted } from "../../async/abortable.ts";
import { CamemError } from "../../errors.ts";
import { checkMemory, type OrderedMemory } from "../../transition/wake-order.ts";
import { addressOf } from "../../transition/wake-up.ts";

/** What a request learns at a checkpoint. */
export interface CheckpointResult {
  /** True when the request was parked here. */
  readonly parked: boolean;
  /** Tags that lost their content meanwhile, by the engine's own names. Recompute it, such as a KV cache from its tokens. */
  readonly lostTags: readonly string[];
}

/**
 * The right of one request to use the engine's memory. No memory goes to sleep while a lease is held, except while its request is
 * parked at a checkpoint. With the controller's `order` memory may still be waking up: see {@link ready}. Release it, or declare it
 * with `using`.
 */
export interface Lease extends Disposable {
  /**
   * Aborted when the request must end early: by a sleep in mode `abort`, by the signal passed to `admit`, by `close`, or by the
   * failure of the wake-up that it was admitted in. The lease still counts until it is released.
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
  /**
   * Resolves when memory has its content: at once, unless the request was admitted during a wake-up with the controller's
   * `order`. Then it is {@link WakeUp.ready} of that wake-up. When that fails, `signal` is aborted: discard what was computed.
   *
   * @throws CamemError what the wake-up fails with, and as `WakeUp.ready`
   */
  ready(memory: OrderedMemory): Promise<void>;
  /**
   * Makes a stream of the engine wait on the device until memory has its content, as {@link ready} and {@link WakeUp.streamWait}.
   *
   * @throws CamemError as {@link ready}, or `ACL_CALL_FAILED`
   */
  streamWait(stream: bigint | number, memory: OrderedMemory): Promise<void>;
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

/** A wake-up, with the engine's own names of its tags. */
export interface OwnWakeUp {
  ready(memory: OrderedMemory): Promise<void>;
  streamWait(stream: number, memory: OrderedMemory): Promise<void>;
}

/** A lease of an admitted request. */
export class AdmittedLease implements Lease {
  state: "running" | "parked" | "released" = "running";
  readonly #owner: LeaseOwner;
  readonly #abort = new AbortController();
  readonly #requestSignal: AbortSignal | undefined;
  /** The wake-up in progress. */
  #wake: OwnWakeUp | undefined;
  readonly #follow = () => this.#abort.abort(this.#requestSignal?.reason);

  constructor(owner: LeaseOwner, requestSignal: AbortSignal | undefined, wake: OwnWakeUp | undefined) {
    this.#owner = owner;
    this.#wake = wake;
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

  async ready(memory: OrderedMemory): Promise<void> {
    checkMemory(memory);
    await this.#wake?.ready(memory);
  }

  async streamWait(stream: bigint | number, memory: OrderedMemory): Promise<void> {
    const address = addressOf(stream);
    checkMemory(memory);
    await this.#wake?.streamWait(address, memory);
  }

  /** The wake-up has ended well. */
  forgetWakeUp(): void {
    this.#wake = undefined;
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
