/** What happens to a request: it is admitted, refused, held until the engine is awake, or it wakes the engine. */

import { aborted } from "../../async/abortable.ts";
import { Deferred } from "../../async/deferred.ts";
import { becauseOf, CamemError } from "../../errors.ts";
import type { WakeUp } from "../../transition/wake-up.ts";
import type { AdmitOptions, ControllerConfig, InFlightMode, WhenAsleep } from "./controller-options.ts";
import { type EngineMemory, isComplete, type OrderedWake } from "./engine-memory.ts";
import type { RequestCounts } from "./events.ts";
import { AdmittedLease, type CheckpointResult, type Lease, type OwnWakeUp, releasedError } from "./lease.ts";
import type { EngineStateTracker } from "./state.ts";

const notParked: CheckpointResult = { parked: false, lostTags: [] };

/** Limits of the wait for requests in flight. */
interface QuiesceLimits {
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
}

interface AdmissionOptions {
  readonly config: ControllerConfig;
  readonly memory: EngineMemory;
  readonly state: EngineStateTracker;
  /** Wakes the engine for the requests that wait. */
  readonly wakeUp: () => Promise<unknown>;
  /** Called after every change of `counts`. */
  readonly onChange: () => void;
}

/** What an operator's abort ends requests with. */
export function abortedByOperator(): CamemError {
  return new CamemError("ABORTED", "the request was aborted by an operator");
}

/** A wake-up that has brought back the first memory of its order. */
interface EarlyAdmission {
  readonly wake: WakeUp;
  readonly own: OwnWakeUp;
  /** The requests admitted since. */
  readonly leases: Set<AdmittedLease>;
}

function endedByWakeUp(cause: unknown): CamemError {
  return new CamemError(
    "ABORTED",
    `the request was aborted: the wake-up during which it was admitted has failed${becauseOf(cause)}`,
    { cause },
  );
}

/** Admits requests while the engine is awake. Quiescing it ends, awaits or parks the requests in flight. */
export class Admission {
  readonly #options: AdmissionOptions;
  readonly #leases = new Set<AdmittedLease>();
  readonly #waiting = new Set<Deferred<Lease>>();
  readonly #parked = new Map<AdmittedLease, Deferred<CheckpointResult>>();
  /** Settles when no lease is running. */
  #quiet: Deferred | undefined;
  #isOpen = true;
  #isParking = false;
  #isWakingOnDemand = false;
  #isClosed = false;
  #early: EarlyAdmission | undefined;
  readonly #totals = { admittedTotal: 0, refusedTotal: 0, abortedTotal: 0 };

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  get counts(): RequestCounts {
    return {
      running: this.#running(),
      parked: this.#parked.size,
      waiting: this.#waiting.size,
      ...this.#totals,
    };
  }

  /** True when requests wait and may wake the engine. */
  get isWakeUpWanted(): boolean {
    return this.disposition === "wake" && this.#waiting.size > 0;
  }

  /** @throws CamemError `ENGINE_UNAVAILABLE`, `QUEUE_FULL`, or the reason of `signal` */
  async admit(signal: AbortSignal | undefined, options: AdmitOptions): Promise<Lease> {
    const { holdDeadlineMs, queueLimit } = this.#options.config;
    const disposition = this.disposition;
    if (disposition === "admit") return this.#admitNow(signal);
    if (disposition === "refuse" || this.#waiting.size >= queueLimit) {
      this.#totals.refusedTotal++;
      this.#options.onChange();
      throw disposition === "refuse" ? this.#unavailable() : this.#queueFull();
    }
    const held = this.#hold(signal, options.deadlineMs ?? holdDeadlineMs);
    if (disposition === "wake") this.#wakeOnDemand();
    return held;
  }

  /** Admits, refuses or wakes for the requests that wait, after the engine's state has changed. */
  update(): void {
    if (this.#isClosed) return;
    const disposition = this.disposition;
    if (disposition === "admit" && !this.#isOpen && this.#early === undefined)
      this.#open(this.#options.memory.takeLost());
    if (disposition === "refuse") this.#refuseWaiting(this.#unavailable());
    if (this.isWakeUpWanted) this.#wakeOnDemand();
  }

  /** The configured order of wake-ups, during which requests are admitted. */
  get ordered(): OrderedWake | undefined {
    const { order } = this.#options.config;
    if (order === undefined) return undefined;
    return {
      order: () => (typeof order === "function" ? order() : order),
      begun: (wake, own) => void this.#admitDuring(wake, own),
    };
  }

  /**
   * Admits requests from the moment on when a wake-up has brought back the first memory of its order. If it fails after that, they
   * are aborted. Parked requests wait for its end, which tells them what is lost.
   */
  async #admitDuring(wake: WakeUp, own: OwnWakeUp): Promise<void> {
    const leases = new Set<AdmittedLease>();
    wake.onFailure((error) => void this.#abortAll(endedByWakeUp(error), leases));
    try {
      await wake.ready([]);
      if (this.#isClosed || this.#options.state.paused) return;
      this.#early = { wake, own, leases };
      // Of the sleep before: requests that enter now are not to halt for it.
      this.#isParking = false;
      this.#admitWaiting();
      await wake;
    } catch {
      // The caller of the wake-up hears of it.
    } finally {
      if (!wake.isFailing) for (const lease of leases) lease.forgetWakeUp();
      this.#early = undefined;
      this.update();
    }
  }

  /**
   * Stops admitting and waits until no lease is running: `abort` aborts their signals, `wait` waits, `keep` parks them. After a
   * failure nothing is admitted until {@link update}.
   *
   * @throws CamemError `TIMED_OUT`, or the reason of `signal`
   */
  async quiesce(mode: InFlightMode, { deadlineMs, signal }: QuiesceLimits): Promise<void> {
    this.#isOpen = false;
    this.#isParking = mode === "keep";
    if (mode === "abort")
      this.#abortAll(
        new CamemError("ABORTED", "the request was aborted: its engine is going to sleep or pausing"),
      );
    if (this.#running() === 0) return;
    const expired = () =>
      new CamemError(
        "TIMED_OUT",
        `${this.#running()} requests in flight did not ${mode === "keep" ? "reach a checkpoint" : "end"} within ${deadlineMs} ms; no memory has moved; raise deadlineMs, or use another mode`,
      );
    this.#quiet = new Deferred({ signal, deadlineMs, clock: this.#options.config.clock, expired });
    try {
      await this.#quiet.promise;
    } finally {
      this.#quiet = undefined;
    }
  }

  /** Refuses the requests that wait and aborts the admitted ones, parked ones too. Returns how many there were. */
  abort(reason: CamemError): number {
    const waiting = this.#waiting.size;
    this.#refuseWaiting(reason);
    return waiting + this.#abortAll(reason);
  }

  /** As {@link abort}, and admits nothing any more. */
  close(reason: CamemError): void {
    this.#isClosed = true;
    this.abort(reason);
  }

  /** For {@link AdmittedLease}: parks it while a sleep or pause in mode `keep` is wanted. */
  async parkIfQuiescing(lease: AdmittedLease): Promise<CheckpointResult> {
    if (!this.#isParking) return notParked;
    if (lease.state === "parked")
      throw new CamemError("STATE_CONFLICT", "this lease is already waiting at a checkpoint");
    const wait = new Deferred<CheckpointResult>({
      signal: lease.signal,
      deadlineMs: Number.POSITIVE_INFINITY,
      clock: this.#options.config.clock,
      expired: () => aborted(lease.signal),
    });
    lease.state = "parked";
    this.#parked.set(lease, wait);
    this.#leasesChanged();
    return wait.promise;
  }

  /** For {@link AdmittedLease}: removes it after its release. */
  forget(lease: AdmittedLease): void {
    this.#leases.delete(lease);
    this.#parked.get(lease)?.reject(releasedError());
    this.#parked.delete(lease);
    this.#leasesChanged();
  }

  /** What happens to a request at this moment. */
  get disposition(): "admit" | WhenAsleep {
    if (this.#isClosed) return "refuse";
    if (this.#early?.wake.isFailing === false) return "admit";
    const { config, memory, state } = this.#options;
    const { current } = state;
    if (current === "awake") return "admit";
    if (current === "failed") return "refuse";
    if (state.paused && config.whenPaused === "refuse") return "refuse";
    if (current === "paused" && state.paused) return "hold";
    const configured = this.#whenAsleep;
    if (configured === "refuse") return "refuse";
    if (state.isMoving || state.paused) return "hold";
    if (memory.lacksWeights && config.reload === undefined) return "refuse";
    return configured;
  }

  /** The configured disposition for the sleep in progress or in effect. */
  get #whenAsleep(): WhenAsleep {
    const { config, state } = this.#options;
    return state.sleepReason === "operator" ? config.whenOperatorAsleep : config.whenAsleep;
  }

  #admitNow(signal: AbortSignal | undefined): Lease {
    if (signal?.aborted) throw aborted(signal);
    const lease = this.#newLease(signal);
    this.#options.onChange();
    return lease;
  }

  async #hold(signal: AbortSignal | undefined, deadlineMs: number): Promise<Lease> {
    const { clock } = this.#options.config;
    const expired = () => this.#unavailable(`, after ${deadlineMs} ms`);
    const wait = new Deferred<Lease>({ signal, deadlineMs, clock, expired });
    this.#waiting.add(wait);
    this.#options.onChange();
    try {
      return await wait.promise;
    } catch (error) {
      this.#waiting.delete(wait);
      if (!signal?.aborted) this.#totals.refusedTotal++;
      this.#options.onChange();
      throw error;
    }
  }

  #refuseWaiting(error: CamemError): void {
    for (const wait of this.#waiting) wait.reject(error);
  }

  #abortAll(reason: CamemError, among: Iterable<AdmittedLease> = this.#leases): number {
    const leases = [...among].filter(({ signal, state }) => state !== "released" && !signal.aborted);
    for (const lease of leases) {
      this.#totals.abortedTotal++;
      lease.abort(reason);
    }
    return leases.length;
  }

  #wakeOnDemand(): void {
    if (this.#isWakingOnDemand) return;
    this.#isWakingOnDemand = true;
    this.#options
      .wakeUp()
      .catch((cause) => {
        if (!isComplete(cause))
          this.#refuseWaiting(this.#unavailable(` and could not be woken${becauseOf(cause)}`, cause));
      })
      .finally(() => {
        this.#isWakingOnDemand = false;
        // A request that began to wait during this wake-up has not started one of its own.
        this.update();
      });
  }

  /** Resumes parked requests, then admits those that wait, in the order in which they came. */
  #open(lostTags: readonly string[]): void {
    this.#isOpen = true;
    this.#isParking = false;
    for (const [lease, wait] of this.#parked) {
      this.#parked.delete(lease);
      if (lease.state === "parked") lease.state = "running";
      wait.resolve({ parked: true, lostTags });
    }
    this.#admitWaiting();
  }

  #admitWaiting(): void {
    for (const wait of this.#waiting) {
      this.#waiting.delete(wait);
      if (!wait.settled) wait.resolve(this.#newLease(wait.signal));
    }
    this.#options.onChange();
  }

  #newLease(signal: AbortSignal | undefined): AdmittedLease {
    const lease = new AdmittedLease(this, signal, this.#early?.own);
    this.#leases.add(lease);
    this.#early?.leases.add(lease);
    this.#totals.admittedTotal++;
    return lease;
  }

  #running(): number {
    return this.#leases.size - this.#parked.size;
  }

  #leasesChanged(): void {
    if (this.#running() === 0) this.#quiet?.resolve();
    this.#options.onChange();
  }

  #unavailable(detail = "", cause?: unknown): CamemError {
    const { config, memory, state } = this.#options;
    const level = memory.sleeping ? ` at level ${memory.sleeping.level}` : "";
    return new CamemError(
      "ENGINE_UNAVAILABLE",
      `the engine ${config.name} is ${state.current}${level}${detail}; ${this.#remedy()}`,
      { retryAfterSeconds: config.retryAfterSeconds, cause },
    );
  }

  #remedy(): string {
    const { config, memory, state } = this.#options;
    if (state.isMoving) return "try again later";
    if (!memory.lacksWeights)
      return state.current === "asleep" && this.#whenAsleep !== "wake"
        ? "requests do not wake it: call wakeUp() or POST /wake_up, or set whenAsleep and whenOperatorAsleep"
        : "try again later";
    if (config.reload === undefined)
      return "its weights are lost and nothing loads them by itself: load them and call confirmWeights(), or set the option reload";
    if (state.current !== "awaiting-weights") return "try again later";
    return "its weights are lost: call wakeUp(), which calls reload, or load them and call confirmWeights()";
  }

  #queueFull(): CamemError {
    const { name, queueLimit, retryAfterSeconds } = this.#options.config;
    return new CamemError(
      "QUEUE_FULL",
      `${queueLimit} requests already wait for the engine ${name}; try again later`,
      { retryAfterSeconds },
    );
  }
}
