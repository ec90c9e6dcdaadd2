import { AsyncLocalStorage } from "node:async_hooks";
import { SerialQueue } from "../../async/serial-queue.ts";
import { CamemError, formatValue } from "../../errors.ts";
import type { TagUsage } from "../../memory/usage.ts";
import type { SleepLevel } from "../../policy/tag-policies.ts";
import type { TransitionPlan } from "../../transition/preflight.ts";
import type { TransitionControl } from "../../transition/progress.ts";
import type { SleepReport, WakeReport } from "../../transition/reports.ts";
import { type Lease, RequestGate } from "./admission.ts";
import {
  type AdmitOptions,
  type ControllerConfig,
  type ControllerOptions,
  checkCall,
  type EngineSleepOptions,
  type EngineWakeOptions,
  type PauseOptions,
  resolveController,
  type WhenAsleep,
} from "./controller-options.ts";
import { EngineMemory } from "./engine-memory.ts";
import { type ControlledAllocator, EngineTags } from "./engine-tags.ts";
import {
  type EngineEvent,
  type EngineListener,
  type EngineState,
  type EngineStatus,
  EventSource,
  type FailureSummary,
  type SleepReason,
  summaryOf,
  type TransitionIdentity,
} from "./events.ts";

export interface EngineSleepResult {
  /** The level that the engine sleeps at now. */
  readonly level: SleepLevel;
  /** True when nothing was to be done. */
  readonly alreadySleeping: boolean;
  /** What the allocator did; null where it was not asked. */
  readonly report: SleepReport | null;
}

export interface EngineWakeResult {
  /** The tags that were asked for, or null for all. */
  readonly tags: readonly string[] | null;
  /** True when nothing was to be done. */
  readonly alreadyAwake: boolean;
  /** What the allocator did; null where it was not asked. */
  readonly report: WakeReport | null;
}

/** Free and total bytes of one device, all processes considered. */
export interface DeviceMemory {
  readonly device: number;
  readonly freeBytes: number;
  readonly totalBytes: number;
}

/** vLLM's name, in the tags of a wake-up, for the scheduler that level 0 halts. */
const schedulingTag = "scheduling";

function memoryNames(tags: readonly string[] | undefined): string[] | undefined {
  if (tags !== undefined && !Array.isArray(tags))
    throw new CamemError("INVALID_TAG", `tags is ${formatValue(tags)}; it must be an array of tag names`);
  return tags?.filter((name) => name !== schedulingTag);
}

function closedError(): CamemError {
  return new CamemError("CLOSED", "the controller of this engine is closed");
}

/**
 * Ties the allocator to one engine: requests are admitted while it is awake and at no other time, and its memory moves while no
 * request uses it. Calls made at once take turns; one that has nothing to do says so.
 *
 * Once an engine has a controller, its memory must go to sleep and wake through that alone.
 */
export class SleepController {
  readonly #allocator: ControlledAllocator;
  readonly #config: ControllerConfig;
  readonly #tags: EngineTags;
  readonly #memory: EngineMemory;
  readonly #gate: RequestGate;
  readonly #events = new EventSource();
  readonly #turns = new SerialQueue();
  /** Set for code that runs inside a transition, which would wait for itself if it asked for another. */
  readonly #caller = new AsyncLocalStorage<{ running: boolean } | undefined>();
  #paused = false;
  #moving: "falling-asleep" | "waking" | "awaiting-weights" | undefined;
  /** Who asked for the sleep that is on its way. */
  #movingReason: SleepReason | undefined;
  #failure: FailureSummary | undefined;
  #closing: Promise<void> | undefined;
  #transitionCount = 0;
  #wakingOnDemand = false;
  /** The status as it was last told, and when its state began. */
  #told: { readonly key: string; readonly state: EngineState; readonly sinceMs: number };

  /** @throws CamemError `INVALID_CONFIG`, `INVALID_TAG`, `STATE_CONFLICT` when memory of the engine is asleep, or `CLOSED` */
  constructor(allocator: ControlledAllocator, options: ControllerOptions = {}) {
    this.#config = resolveController(options);
    if (typeof allocator?.wakeUp !== "function")
      throw new CamemError(
        "INVALID_CONFIG",
        `allocator is ${formatValue(allocator)}; it must be a CaMemAllocator, such as CaMemAllocator.getInstance()`,
      );
    this.#allocator = allocator;
    this.#tags = new EngineTags(allocator, this.#config.tags);
    this.#memory = new EngineMemory(allocator, this.#tags, this.#config.weightTags);
    this.#gate = new RequestGate(this.#config.clock, () => this.#tellRequests());
    this.#told = { key: this.#key(), state: "awake", sinceMs: Date.now() };
  }

  /** The engine's name in events, metrics and pools. */
  get name(): string {
    return this.#config.name;
  }

  /** True from the end of a sleep, of any level, until everything that slept is awake. */
  get isSleeping(): boolean {
    return this.#memory.sleeping !== undefined;
  }

  /** True after `pause()`, and after a sleep of level 0. */
  get isPaused(): boolean {
    return this.#paused || this.#memory.sleeping?.level === 0;
  }

  /** The whole of it at this moment; costs next to nothing. */
  get status(): EngineStatus {
    const sleep = this.#memory.sleeping;
    return {
      engine: this.name,
      state: this.#told.state,
      sinceMs: this.#told.sinceMs,
      level: sleep?.level ?? null,
      reason: sleep?.reason ?? null,
      sleepingTags: this.#memory.sleepingTags,
      awaitingTags: this.#memory.awaitingTags,
      paused: this.#paused,
      requests: this.#gate.counts,
      failure: this.#failure ?? null,
    };
  }

  /**
   * What each tag of the engine holds where, by the engine's own names.
   *
   * @throws CamemError `CLOSED`
   */
  usage(): Record<string, TagUsage> {
    return this.#tags.usage();
  }

  /**
   * What is free on the engine's devices (aclrtGetMemInfo).
   *
   * @throws CamemError `UNKNOWN_DEVICE`, `ACL_CALL_FAILED`, `DEVICE_LOST` or `CLOSED`
   */
  deviceMemory(): DeviceMemory[] {
    const devices = this.#config.devices ?? [this.#allocator.device];
    return devices.map((device) => ({ device, ...this.#allocator.memGetInfo(device) }));
  }

  /**
   * What a sleep or wake-up of this engine would do now, and whether it fits. Touches nothing.
   *
   * @throws CamemError as the allocator's `plan`
   */
  plan(
    operation: "sleep" | "wake",
    {
      level,
      tags,
    }: { readonly level?: SleepLevel | undefined; readonly tags?: readonly string[] | undefined } = {},
  ): TransitionPlan {
    const own = this.#tags.tagsOf(memoryNames(tags));
    return this.#tags.named(
      operation === "sleep"
        ? this.#allocator.plan("sleep", { level, tags: own })
        : this.#allocator.plan(operation, { tags: own }),
    );
  }

  /**
   * Lets a request in. While the engine is not awake the request is held, wakes it, or is refused, as configured; it is always
   * refused while weights are lost that nobody will load by himself, and after a failure. Those held enter in their order.
   *
   * @param signal aborted when the client is gone: then the request loses its place, or its lease is told
   * @throws CamemError `ENGINE_UNAVAILABLE` or `QUEUE_FULL`, with `retryAfterSeconds`; `ABORTED`, `CLOSED` or `INVALID_ARGUMENT`
   */
  async admit(signal?: AbortSignal, options: AdmitOptions = {}): Promise<Lease> {
    checkCall("admit", options, signal);
    this.#assertOpen();
    const reception = this.#reception();
    if (reception === "admit") return this.#gate.enter(signal);
    const full = this.#gate.counts.waiting >= this.#config.queueLimit;
    if (reception === "refuse" || full) {
      this.#gate.countRefusal();
      throw reception === "refuse" ? this.#unavailable() : this.#queueFull();
    }
    const deadlineMs = options.deadlineMs ?? this.#config.holdDeadlineMs;
    const held = this.#gate.hold(signal, deadlineMs, () => this.#unavailable(`, after ${deadlineMs} ms`));
    if (reception === "wake") this.#wakeOnDemand();
    return held;
  }

  /**
   * Puts the engine to sleep: no request is admitted any more, those in flight end as `mode` says, then memory moves. Level 1
   * while asleep at 1 does nothing and says so; level 2 while asleep at 1 drops the backups; level 0 moves nothing. What is
   * asked for is checked, and room for the backups, before any request is disturbed. After a rejection the engine is as it was,
   * but for requests that mode `abort` has ended; should the error's `transitionComplete` be true, it sleeps all the same.
   *
   * @throws CamemError `STATE_CONFLICT` for level 1 while weights sleep at level 2, `TIMED_OUT`, `CALLED_FROM_HOOK`, `CLOSED`, and
   * as the allocator's `sleep`
   */
  async sleep(options: EngineSleepOptions = {}): Promise<EngineSleepResult> {
    checkCall("sleep", options, options.signal);
    this.#assertCanMove();
    this.#assertKnown(options.tags);
    const { level = 1, tags, reason = "operator" } = options;
    return this.#turns.run(options.signal, (signal) =>
      this.#transition({ operation: "sleep", level, tags: tags ?? null, reason }, async (identity) => {
        const result = await this.#sleepNow(identity, options, signal);
        return { result, noOp: result.alreadySleeping };
      }),
    );
  }

  /**
   * Wakes the engine's memory; with `tags` only those. Requests are admitted when all of it is awake and no weights are lost:
   * where `reload` was given it runs in between, and should it fail the memory goes back to sleep. Undoes a sleep of level 0,
   * but not a `pause()`. vLLM's tag `scheduling` is understood, and stands for no memory.
   *
   * @throws CamemError `HOOK_FAILED` when `reload` threw, `CALLED_FROM_HOOK`, `CLOSED`, and as the allocator's `wakeUp`
   */
  async wakeUp(options: EngineWakeOptions = {}): Promise<EngineWakeResult> {
    checkCall("wakeUp", options, options.signal);
    this.#assertCanMove();
    this.#assertKnown(options.tags);
    return this.#wake(options, options.reason ?? "operator");
  }

  /**
   * Halts requests without moving memory, until {@link resume}. Those in flight end as `mode` says.
   *
   * @throws CamemError `TIMED_OUT` or `ABORTED`, and then nothing has changed; `INVALID_ARGUMENT`, `CALLED_FROM_HOOK` or `CLOSED`
   */
  async pause(options: PauseOptions = {}): Promise<void> {
    checkCall("pause", options, options.signal);
    this.#assertCanMove();
    await this.#turns.run(options.signal, async (signal) => {
      const before = this.#paused;
      this.#paused = true;
      this.#tell();
      try {
        await this.#quiesce(options, signal);
      } catch (error) {
        this.#paused = before;
        throw error;
      } finally {
        this.#settle();
      }
    });
  }

  /**
   * Ends a pause, and a sleep of level 0. Memory that is asleep stays so.
   *
   * @throws CamemError `CALLED_FROM_HOOK` or `CLOSED`
   */
  async resume(): Promise<void> {
    this.#assertCanMove();
    await this.#turns.run(undefined, async () => {
      this.#paused = false;
      if (this.#memory.sleeping?.level === 0) this.#memory.endEmptySleep();
      this.#settle();
    });
  }

  /**
   * Says that the weights were loaded again after their content was lost. Without that, or `reload`, no request is admitted
   * after level 2. Does nothing where nothing was lost.
   *
   * @throws CamemError `STATE_CONFLICT` while lost weights are asleep, since nothing can have been loaded; `CALLED_FROM_HOOK` or
   * `CLOSED`
   */
  async confirmWeights(): Promise<void> {
    this.#assertCanMove();
    await this.#turns.run(undefined, async () => {
      this.#memory.confirm();
      this.#settle();
    });
  }

  /** Tells `listener` of every event from now on. Returns a function that ends it. */
  subscribe(listener: EngineListener): () => void {
    return this.#events.subscribe(listener);
  }

  /**
   * Lets go of the engine: requests that are held are refused, those in flight are aborted, a transition that runs is called
   * off, or waited for where it can no longer be. Waits for no request. Memory stays as it is and remains the allocator's.
   *
   * @throws CamemError `CALLED_FROM_HOOK`
   */
  async close(): Promise<void> {
    this.#assertOutside();
    this.#closing ??= this.#closeNow();
    return this.#closing;
  }

  /** Makes `await using` close the controller. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #closeNow(): Promise<void> {
    const closed = closedError();
    const ended = this.#turns.end(closed);
    this.#gate.refuseHeld(closed);
    this.#gate.abortAll(closed);
    await ended;
  }

  #assertOpen(): void {
    if (this.#closing) throw closedError();
  }

  #assertOutside(): void {
    if (this.#caller.getStore()?.running)
      throw new CamemError(
        "CALLED_FROM_HOOK",
        "a hook or reload function cannot start a transition; do it after the call that runs it",
      );
  }

  #assertCanMove(): void {
    this.#assertOpen();
    this.#assertOutside();
  }

  /** Bad input is refused before its turn comes, and without events. */
  #assertKnown(tags: readonly string[] | undefined): void {
    try {
      this.plan("sleep", { tags });
    } catch (error) {
      this.#noteFailure(error);
      this.#settle();
      throw error;
    }
  }

  async #sleepNow(
    identity: TransitionIdentity,
    options: EngineSleepOptions,
    signal: AbortSignal,
  ): Promise<EngineSleepResult> {
    const { level = 1, tags, reason = "operator" } = options;
    if (this.#memory.prepareSleep(level, tags, reason))
      return { level: this.#memory.sleeping?.level ?? level, alreadySleeping: true, report: null };
    this.#movingReason = reason;
    this.#move("falling-asleep");
    await this.#quiesce(options, signal);
    const report = await this.#memory.sleep(level, tags, reason, this.#control(identity, signal));
    return { level: this.#memory.sleeping?.level ?? level, alreadySleeping: false, report };
  }

  #wake(
    options: Omit<EngineWakeOptions, "reason">,
    reason: TransitionIdentity["reason"],
  ): Promise<EngineWakeResult> {
    const { tags } = options;
    return this.#turns.run(options.signal, async (signal) => {
      const result = { tags: tags ?? null, alreadyAwake: true, report: null };
      // Meanwhile an operator may have put it to sleep, or the client may have gone.
      if (reason === "request" && !this.#isWantedByRequests()) return result;
      return this.#transition(
        { operation: "wake", level: null, tags: result.tags, reason },
        async (identity) => {
          const woken = await this.#wakeNow(identity, tags, signal);
          return { result: { ...result, ...woken }, noOp: woken.alreadyAwake };
        },
      );
    });
  }

  async #wakeNow(
    identity: TransitionIdentity,
    tags: readonly string[] | undefined,
    signal: AbortSignal,
  ): Promise<Pick<EngineWakeResult, "alreadyAwake" | "report">> {
    const { reload } = this.#config;
    const before = this.#memory.snapshot();
    if (this.#memory.endEmptySleep()) return { alreadyAwake: false, report: null };
    const names = memoryNames(tags);
    if (this.#memory.asleepAmong(names).length > 0) this.#move("waking");
    const report = await this.#memory.wake(names, this.#control(identity, signal));
    const loads = reload !== undefined && this.#memory.canLoad;
    if (loads) {
      this.#move("awaiting-weights");
      await this.#memory.load(reload, before, signal);
    }
    return { alreadyAwake: report === null && !loads, report };
  }

  /** Runs one transition between its two events, and remembers a failure for good. */
  async #transition<T extends { readonly report: SleepReport | WakeReport | null }>(
    asked: Omit<TransitionIdentity, "id">,
    run: (identity: TransitionIdentity) => Promise<{ readonly result: T; readonly noOp: boolean }>,
  ): Promise<T> {
    const identity = { id: ++this.#transitionCount, ...asked };
    const startedMs = this.#config.clock.nowMs();
    const end = () => ({
      type: "transition-ended" as const,
      ...this.#stamp(),
      ...identity,
      durationMs: this.#config.clock.nowMs() - startedMs,
    });
    const caller = { running: true };
    this.#emit({ type: "transition-started", ...this.#stamp(), ...identity });
    try {
      const { result, noOp } = await this.#caller.run(caller, () => run(identity));
      if (result.report !== null) this.#failure = undefined;
      this.#standStill();
      const outcome = noOp ? "no-op" : "done";
      this.#emit({ ...end(), outcome, report: result.report, failure: null });
      return result;
    } catch (error) {
      this.#noteFailure(error);
      this.#standStill();
      this.#emit({ ...end(), outcome: "failed", report: null, failure: summaryOf(error) });
      throw error;
    } finally {
      caller.running = false;
    }
  }

  #noteFailure(error: unknown): void {
    if (!(error instanceof CamemError) || this.#closing) return;
    const lastsForGood =
      error.code === "DEVICE_LOST" || (error.code === "CLOSED" && !this.#memory.isReachable);
    if (lastsForGood) this.#failure = summaryOf(error);
  }

  #move(state: "falling-asleep" | "waking" | "awaiting-weights"): void {
    this.#moving = state;
    this.#tell();
  }

  #standStill(): void {
    this.#moving = undefined;
    this.#movingReason = undefined;
    this.#settle();
  }

  async #quiesce(
    { mode = "abort", deadlineMs = this.#config.drainDeadlineMs }: PauseOptions,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#gate.quiesce(mode, { deadlineMs, signal });
  }

  #control(identity: TransitionIdentity, signal: AbortSignal): TransitionControl {
    return {
      signal,
      onProgress: (progress) =>
        this.#emit({ type: "transition-progress", ...this.#stamp(), ...identity, progress }),
    };
  }

  #state(): EngineState {
    if (this.#moving) return this.#moving;
    if (this.#failure) return "failed";
    if (this.#memory.sleeping && this.#memory.sleeping.level > 0) return "asleep";
    if (this.isPaused) return "paused";
    return this.#memory.awaitingTags.length > 0 ? "awaiting-weights" : "awake";
  }

  /** What a request meets at this moment. */
  #reception(): "admit" | WhenAsleep {
    const state = this.#state();
    if (state === "awake") return "admit";
    if (state === "failed") return "refuse";
    const { whenAsleep, whenOperatorAsleep, reload } = this.#config;
    const reason = this.#movingReason ?? this.#memory.sleeping?.reason;
    const wanted = reason === "operator" ? whenOperatorAsleep : whenAsleep;
    if (wanted === "refuse") return "refuse";
    if (this.#moving || this.#paused) return "hold";
    if (this.#memory.lacksWeights && reload === undefined) return "refuse";
    return wanted;
  }

  /** Makes the gate what the state asks for, after anything has changed. */
  #settle(): void {
    this.#tell();
    if (this.#closing) return;
    const reception = this.#reception();
    if (reception === "admit" && !this.#gate.isOpen) this.#gate.open(this.#memory.takeLost());
    if (reception === "refuse") this.#gate.refuseHeld(this.#unavailable());
    if (reception === "wake" && this.#gate.counts.waiting > 0) this.#wakeOnDemand();
  }

  #isWantedByRequests(): boolean {
    return this.#reception() === "wake" && this.#gate.counts.waiting > 0;
  }

  #wakeOnDemand(): void {
    if (this.#wakingOnDemand) return;
    this.#wakingOnDemand = true;
    this.#wake({}, "request")
      .catch((cause) => this.#gate.refuseHeld(this.#unavailable(" and could not be woken", cause)))
      .finally(() => {
        this.#wakingOnDemand = false;
        // One that came since it was found that nobody waited has had nobody to wake the engine for it.
        this.#settle();
      });
  }

  #unavailable(detail = "", cause?: unknown): CamemError {
    const sleep = this.#memory.sleeping;
    const level = sleep ? ` at level ${sleep.level}` : "";
    return new CamemError(
      "ENGINE_UNAVAILABLE",
      `the engine ${this.name} is ${this.#state()}${level}${detail}; try again later`,
      { retryAfterSeconds: this.#config.retryAfterSeconds, cause },
    );
  }

  #queueFull(): CamemError {
    return new CamemError(
      "QUEUE_FULL",
      `${this.#config.queueLimit} requests wait for the engine ${this.name} already; try again later`,
      { retryAfterSeconds: this.#config.retryAfterSeconds },
    );
  }

  #stamp(): { engine: string; atMs: number } {
    return { engine: this.name, atMs: Date.now() };
  }

  #key(): string {
    const { sleeping, sleepingTags, awaitingTags } = this.#memory;
    return JSON.stringify([
      this.#state(),
      sleeping,
      sleepingTags,
      awaitingTags,
      this.#paused,
      this.#failure?.message,
    ]);
  }

  /** Emits a `state` event where anything has changed since the last. */
  #tell(): void {
    const key = this.#key();
    if (key === this.#told.key) return;
    const { state: previous, sinceMs } = this.#told;
    const state = this.#state();
    this.#told = { key, state, sinceMs: state === previous ? sinceMs : Date.now() };
    this.#emit({ type: "state", ...this.#stamp(), previous, status: this.status });
  }

  #tellRequests(): void {
    this.#emit({ type: "requests", ...this.#stamp(), requests: this.#gate.counts });
  }

  /** Listeners run outside of the transition: they may start one, without waiting for it. */
  #emit(event: EngineEvent): void {
    this.#caller.run(undefined, () => this.#events.emit(event));
  }
}
