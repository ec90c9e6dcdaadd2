import { aborted } from "../../async/abortable.ts";
import type { Clock } from "../../async/clock.ts";
import { Deferred } from "../../async/deferred.ts";

import { CamemError } from "../../errors.ts";
import type { InFlightMode, RequestCounts } from "./events.ts";

/** What a request learns at a checkpoint. */
export interface CheckpointResult {
  /** True when the request was halted here. */
  readonly parked: boolean;
  /** The tags that lost their content meanwhile, by the engine's own names: compute it anew, as a KV cache from its tokens. */
  readonly lostTags: readonly string[];
}

/**
 * The right of one request to use the engine's memory. No memory moves while it is held, except while it is parked at a
 * checkpoint. Release it, or declare it with `using`.
 */
export interface Lease extends Disposable {
  /**
   * Aborted when the request has to end early: by a sleep in mode `abort`, by the signal that `admit` was given, or by closing.
   * The lease counts until it is released all the same.
   */
  readonly signal: AbortSignal;
  /**
   * To be awaited where the request can be halted, as between decode steps. Returns at once while the engine is awake. While a
   * sleep or pause in mode `keep` is wanted it parks the request, and returns when the engine is awake again.
   *
   * @throws CamemError `ABORTED` or `CLOSED` when `signal` is aborted: then touch no device memory, and release;
   * `STATE_CONFLICT` when it is released already
   */
  checkpoint(): Promise<CheckpointResult>;
  /** Gives the right back. Doing so twice does nothing. */
  release(): void;
}

const passedBy: CheckpointResult = { parked: false, lostTags: [] };

function released(): CamemError {
  return new CamemError("STATE_CONFLICT", "this lease is released: its request may not use the engine");
}

class GateLease implements Lease {
  state: "running" | "parked" | "released" = "running";
  readonly #gate: RequestGate;
  readonly #abort = new AbortController();
  readonly #given: AbortSignal | undefined;
  readonly #follow = () => this.#abort.abort(this.#given?.reason);

  constructor(gate: RequestGate, given: AbortSignal | undefined) {
    this.#gate = gate;
    this.#given = given;
    given?.addEventListener("abort", this.#follow, { once: true });
    if (given?.aborted) this.#follow();
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  async checkpoint(): Promise<CheckpointResult> {
    if (this.state === "released") throw released();
    if (this.signal.aborted) throw aborted(this.signal);
    return this.#gate.passOrPark(this);
  }

  abort(reason: CamemError): void {
    this.#abort.abort(reason);
  }

  release(): void {
    if (this.state === "released") return;
    this.state = "released";
    this.#given?.removeEventListener("abort", this.#follow);
    this.#gate.forget(this);
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** What bounds the wait for requests in flight. */
export interface QuiesceLimits {
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
}

/**
 * Lets requests in while it is open. Closing it ends, awaits or parks those inside. It knows nothing of memory: the controller
 * opens it when the engine is awake.
 */
export class RequestGate {
  readonly #clock: Clock;
  readonly #onChange: () => void;
  readonly #leases = new Set<GateLease>();
  readonly #held = new Set<Deferred<Lease>>();
  readonly #parked = new Map<GateLease, Deferred<CheckpointResult>>();
  /** Settles when no lease is running. */
  #quiet: Deferred | undefined;
  #open = true;
  #parking = false;
  readonly #totals = { admittedTotal: 0, refusedTotal: 0, abortedTotal: 0 };

  /** @param onChange called after every change of `counts` */
  constructor(clock: Clock, onChange: () => void) {
    this.#clock = clock;
    this.#onChange = onChange;
  }

  get isOpen(): boolean {
    return this.#open;
  }

  get counts(): RequestCounts {
    return {
      running: this.#running(),
      parked: this.#parked.size,
      waiting: this.#held.size,
      ...this.#totals,
    };
  }

  /** A lease at once. To be called while the gate is open. */
  enter(signal: AbortSignal | undefined): Lease {
    if (signal?.aborted) throw aborted(signal);
    const lease = this.#newLease(signal);
    this.#onChange();
    return lease;
  }

  /** A lease when the gate opens. Whoever asked first enters first. */
  async hold(signal: AbortSignal | undefined, deadlineMs: number, expired: () => CamemError): Promise<Lease> {
    const wait = new Deferred<Lease>({ signal, deadlineMs, clock: this.#clock, expired });
    this.#held.add(wait);
    this.#onChange();
    try {
      return await wait.promise;
    } catch (error) {
      this.#held.delete(wait);
      if (!signal?.aborted) this.#totals.refusedTotal++;
      this.#onChange();
      throw error;
    }
  }

  /** Counts a request that was refused without being held. */
  countRefusal(): void {
    this.#totals.refusedTotal++;
    this.#onChange();
  }

  /** Refuses everybody that is held. */
  refuseHeld(error: CamemError): void {
    for (const wait of this.#held) wait.reject(error);
  }

  /**
   * Shuts the gate and sees to it that no lease is running: `abort` aborts their signals, `wait` waits, `keep` parks them.
   * On failure the gate stays shut, for the controller to decide.
   *
   * @throws CamemError `TIMED_OUT`, or what `signal` was aborted with
   */
  async quiesce(mode: InFlightMode, { deadlineMs, signal }: QuiesceLimits): Promise<void> {
    this.#open = false;
    this.#parking = mode === "keep";
    if (mode === "abort")
      this.abortAll(
        new CamemError("ABORTED", "the request was ended: its engine goes to sleep or is paused"),
      );
    if (this.#running() === 0) return;
    const expired = () =>
      new CamemError(
        "TIMED_OUT",
        `${this.#running()} requests in flight did not ${mode === "keep" ? "reach a checkpoint" : "end"} within ${deadlineMs} ms; no memory has moved; raise deadlineMs, or use another mode`,
      );
    this.#quiet = new Deferred({ signal, deadlineMs, clock: this.#clock, expired });
    try {
      await this.#quiet.promise;
    } finally {
      this.#quiet = undefined;
    }
  }

  /** Lets everybody in: those that are parked go on, those that are held enter, in the order in which they came. */
  open(lostTags: readonly string[]): void {
    this.#open = true;
    this.#parking = false;
    for (const [lease, wait] of this.#parked) {
      this.#parked.delete(lease);
      if (lease.state === "parked") lease.state = "running";
      wait.resolve({ parked: true, lostTags });
    }
    for (const wait of this.#held) {
      this.#held.delete(wait);
      if (!wait.settled) wait.resolve(this.#newLease(wait.signal));
    }
    this.#onChange();
  }

  /** Aborts every request inside, parked ones too. */
  abortAll(reason: CamemError): void {
    for (const lease of this.#leases) {
      if (lease.signal.aborted) continue;
      this.#totals.abortedTotal++;
      lease.abort(reason);
    }
  }

  /** @internal */
  async passOrPark(lease: GateLease): Promise<CheckpointResult> {
    if (!this.#parking) return passedBy;
    if (lease.state === "parked")
      throw new CamemError("STATE_CONFLICT", "this lease waits at a checkpoint already");
    const wait = new Deferred<CheckpointResult>({
      signal: lease.signal,
      deadlineMs: Number.POSITIVE_INFINITY,
      clock: this.#clock,
      expired: () => aborted(lease.signal),
    });
    lease.state = "parked";
    this.#parked.set(lease, wait);
    this.#changed();
    return wait.promise;
  }

  /** @internal */
  forget(lease: GateLease): void {
    this.#leases.delete(lease);
    this.#parked.get(lease)?.reject(released());
    this.#parked.delete(lease);
    this.#changed();
  }

  #newLease(signal: AbortSignal | undefined): GateLease {
    const lease = new GateLease(this, signal);
    this.#leases.add(lease);
    this.#totals.admittedTotal++;
    return lease;
  }

  #running(): number {
    return this.#leases.size - this.#parked.size;
  }

  #changed(): void {
    if (this.#running() === 0) this.#quiet?.resolve();
    this.#onChange();
  }
}
