import { CamemError, formatValue } from "../../errors.ts";
import type { TagUsage } from "../../memory/usage.ts";
import { defaultLevel } from "../../policy/tag-policies.ts";
import type { TransitionPlan } from "../../transition/preflight.ts";
import type { SleepReport, WakeReport } from "../../transition/reports.ts";
import { Admission, abortedByOperator } from "./admission.ts";
import { AnnouncedState } from "./announced-state.ts";
import {
  type AdmitOptions,
  type ControllerConfig,
  type ControllerOptions,
  checkCall,
  type EnginePlanOptions,
  type EngineSleepOptions,
  type EngineWakeOptions,
  type PauseOptions,
  type ReloadOptions,
  resolveController,
  type WhenAsleep,
} from "./controller-options.ts";
import { EngineMemory, isComplete, type SleepDepth } from "./engine-memory.ts";
import { type ControlledAllocator, EngineTags } from "./engine-tags.ts";
import type { EngineListener, EngineStatus, TransitionIdentity } from "./events.ts";
import type { Lease } from "./lease.ts";
import type { DeviceMemory, EngineSleepResult, EngineWakeResult } from "./results.ts";
import { EngineStateTracker } from "./state.ts";
import { takeTags } from "./tag-owners.ts";
import { TransitionRunner } from "./transition-runner.ts";

/**
 * Ties the allocator to one engine. Requests are admitted only while the engine is awake, or with the option `order` while it wakes
 * up, and its memory goes to sleep only while no request uses it. Concurrent calls run one after the other; a call with nothing to do reports so.
 *
 * Once an engine has a controller, put its memory to sleep and wake it only through the controller.
 */
export class SleepController {
  /** @internal Engines may share it. */ readonly allocator: ControlledAllocator;
  readonly #config: ControllerConfig;
  readonly #tags: EngineTags;
  readonly #memory: EngineMemory;
  readonly #state: EngineStateTracker;
  readonly #admission: Admission;
  readonly #transitions: TransitionRunner;
  readonly #releaseTags: () => void;
  #closing: Promise<void> | undefined;
  readonly #announced: AnnouncedState;

  /**
   * Takes the engine's tags until {@link close}.
   *
   * @throws CamemError `STATE_CONFLICT` when an open controller has one of the tags, or when memory of the engine is asleep;
   * `INVALID_CONFIG`, `INVALID_TAG` or `CLOSED`
   */
  constructor(allocator: ControlledAllocator, options: ControllerOptions = {}) {
    this.#config = resolveController(options, allocator);
    if (typeof allocator?.wakeUp !== "function")
      throw new CamemError(
        "INVALID_CONFIG",
        `allocator is ${formatValue(allocator)}; it must be a CaMemAllocator, such as CaMemAllocator.getInstance()`,
      );
    const { name, clock, tags, weightTags } = this.#config;
    this.allocator = allocator;
    this.#releaseTags = takeTags(allocator, name, tags && Object.values(tags));
    try {
      this.#tags = new EngineTags(allocator, tags);
      this.#memory = new EngineMemory(allocator, this.#tags, weightTags);
    } catch (error) {
      this.#releaseTags();
      throw error;
    }
    this.#state = new EngineStateTracker(this.#memory);
    this.#transitions = new TransitionRunner(name, clock);
    this.#admission = new Admission({
      config: this.#config,
      memory: this.#memory,
      state: this.#state,
      wakeUp: () => this.#wakeUp({}, "request"),
      onChange: () => this.#transitions.emit({ type: "requests", requests: this.#admission.counts }),
    });
    this.#announced = new AnnouncedState(this.#memory, this.#state);
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
    return this.#state.isPaused;
  }

  /** What {@link admit} does with a request now: admits it, refuses it, holds it, or wakes the engine for it. */
  get disposition(): "admit" | WhenAsleep {
    return this.#admission.disposition;
  }

  /** True when `reload` is set: requests are served again after a sleep at level 2. */
  get canReload(): boolean {
    return this.#config.reload !== undefined;
  }

  /** The numbers of the engine's devices. */
  get devices(): readonly number[] {
    return this.#config.devices ?? [this.allocator.device];
  }

  /** The engine's status now. Cheap to read. */
  get status(): EngineStatus {
    const sleep = this.#memory.sleeping;
    return {
      engine: this.name,
      state: this.#announced.state,
      sinceMs: this.#announced.sinceMs,
      level: sleep?.level ?? null,
      reason: sleep?.reason ?? null,
      sleepingTags: this.#memory.sleepingTags,
      awaitingTags: this.#memory.awaitingTags,
      paused: this.#state.paused,
      requests: this.#admission.counts,
      failure: this.#state.failure ?? null,
    };
  }

  /**
   * What each tag of the engine holds and where, by the engine's own names.
   *
   * @throws CamemError `CLOSED`
   */
  usage(): Record<string, TagUsage> {
    return this.#tags.usage();
  }

  /**
   * Free and total memory of the engine's devices (aclrtGetMemInfo).
   *
   * @throws CamemError `UNKNOWN_DEVICE`, `ACL_CALL_FAILED`, `DEVICE_LOST` or `CLOSED`
   */
  deviceMemory(): DeviceMemory[] {
    return this.devices.map((device) => ({ device, ...this.allocator.memGetInfo(device) }));
  }

  /**
   * What a sleep or wake-up of this engine would do now, and whether it fits. Changes nothing.
   *
   * @throws CamemError as the allocator's `plan`
   */
  plan(operation: "sleep" | "wake", options: EnginePlanOptions = {}): TransitionPlan {
    checkCall("plan", options);
    const names = this.#tags.withMemory(options.tags);
    const offloadNames = this.#tags.withMemory(options.offloadTags);
    this.#tags.assertKnown([...(names ?? []), ...(offloadNames ?? [])]);
    const tags = this.#tags.tagsOf(operation === "wake" ? this.#memory.wakeScope(names) : names);
    const offloadTags = offloadNames && this.#tags.tagsOf(offloadNames);
    return this.#tags.named(
      operation === "sleep"
        ? this.allocator.plan("sleep", { level: options.level, offloadTags, tags })
        : this.allocator.plan(operation, { tags }),
    );
  }

  /**
   * Admits a request. While the engine is not awake the request is held, wakes it, or is refused, as configured. After a
   * failure, and while weights are lost that only `confirmWeights` can restore, it is always refused. Requests that are held are
   * admitted in the order in which they came.
   *
   * @param signal abort it when the client disconnects: a request that is held is dropped, and a lease has its signal aborted
   * @throws CamemError `ENGINE_UNAVAILABLE` or `QUEUE_FULL`, with `retryAfterSeconds`; `ABORTED`, `CLOSED` or `INVALID_ARGUMENT`
   */
  async admit(signal?: AbortSignal, options: AdmitOptions = {}): Promise<Lease> {
    checkCall("admit", options, signal);
    this.#assertOpen();
    return this.#admission.admit(signal, options);
  }

  /**
   * Puts the engine to sleep: admits no further request, ends those in flight as `mode` says, then moves memory. Level 1 while
   * asleep at level 1 has nothing to do. Level 2 while asleep at level 1 drops the backups. Level 0 moves nothing. The options,
   * and the room for the backups, are checked before any request is disturbed. With `offloadTags` the engine sleeps at level 1
   * if its weights are among them, otherwise at level 2. After a rejection the engine is as it was, except
   * for requests that mode `abort` has ended. If the error's `transitionComplete` is true, the engine sleeps nevertheless.
   *
   * @throws CamemError `STATE_CONFLICT` for level 1 while weights sleep at level 2 and when `onlyIf` returns false, `TIMED_OUT`,
   * `CALLED_FROM_HOOK`, `CLOSED`, and as the allocator's `sleep`
   */
  async sleep(options: EngineSleepOptions = {}): Promise<EngineSleepResult> {
    checkCall("sleep", options);
    this.#assertCanMove();
    this.#assertKnown(options);
    const { tags, reason = "operator" } = options;
    const depth = this.#depthOf(options);
    const { level } = depth;
    return this.#transitions.enqueue(options.signal, async (signal) => {
      this.#assertWanted(options);
      return this.#runTransition(
        { operation: "sleep", level, tags: tags ?? null, reason },
        async (identity) => {
          const result = await this.#sleepNow(identity, depth, options, signal);
          return { result, noOp: result.alreadySleeping };
        },
      );
    });
  }

  /**
   * Wakes the engine's memory; with `tags` only those. Weights bring the rest of the model, such as `buffers`, so that `weights`
   * and then `kv_cache` wake everything. Requests are admitted once all of it is awake (see `order`) and no weights are lost.
   * Lost weights are loaded by `reload` if it is set; when it fails, the memory goes back to sleep. If the error's
   * `transitionComplete` is true, the engine is awake nevertheless. Ends a sleep of level 0, but
   * not a `pause()`. As in `sleep`, the tags `scheduling` of vLLM and `cuda_graph` of SGLang stand for no memory.
   *
   * @throws CamemError `HOOK_FAILED` when `reload` threw, `STATE_CONFLICT` when `onlyIf` returns false, `CALLED_FROM_HOOK`,
   * `CLOSED`, and as the allocator's `wakeUp`
   */
  async wakeUp(options: EngineWakeOptions = {}): Promise<EngineWakeResult> {
    checkCall("wakeUp", options);
    this.#assertCanMove();
    this.#assertKnown({ tags: options.tags });
    return this.#wakeUp(options, options.reason ?? "operator");
  }

  /**
   * Halts requests without moving memory, until {@link resume}. Ends those in flight as `mode` says.
   *
   * @throws CamemError `TIMED_OUT` or `ABORTED`, when nothing has changed; `INVALID_ARGUMENT`, `CALLED_FROM_HOOK` or `CLOSED`
   */
  async pause(options: PauseOptions = {}): Promise<void> {
    checkCall("pause", options);
    this.#assertCanMove();
    await this.#transitions.enqueue(options.signal, async (signal) => {
      const before = this.#state.paused;
      this.#state.paused = true;
      this.#announce();
      try {
        await this.#quiesce(options, signal);
      } catch (error) {
        this.#state.paused = before;
        throw error;
      } finally {
        this.#applyState();
      }
    });
  }

  /**
   * Ends a pause, and a sleep of level 0. Memory that is asleep stays asleep.
   *
   * @throws CamemError `CALLED_FROM_HOOK` or `CLOSED`
   */
  async resume(): Promise<void> {
    this.#assertCanMove();
    await this.#transitions.enqueue(undefined, async () => {
      this.#state.paused = false;
      if (this.#memory.sleeping?.level === 0) this.#memory.endEmptySleep();
      this.#applyState();
    });
  }

  /**
   * Confirms that lost weights were loaded again. After level 2 no request is admitted without this call or `reload`. Does
   * nothing when nothing was lost.
   *
   * @throws CamemError `STATE_CONFLICT` while lost weights are asleep, since nothing can have been loaded; `CALLED_FROM_HOOK` or
   * `CLOSED`
   */
  async confirmWeights(): Promise<void> {
    this.#assertCanMove();
    await this.#transitions.enqueue(undefined, async () => {
      this.#memory.confirm();
      this.#applyState();
    });
  }

  /**
   * Loads the weights anew, in place, by `reload`: awaits the requests in flight, or ends them as `mode` says, and admits others
   * afterwards. Works on weights that are awake, lost or not. If `reload` throws, they count as lost.
   *
   * @throws CamemError `INVALID_CONFIG` without `reload`, `STATE_CONFLICT` while weights are asleep, `HOOK_FAILED`, `TIMED_OUT`,
   * `ABORTED`, `INVALID_ARGUMENT`, `CALLED_FROM_HOOK` or `CLOSED`
   */
  async reloadWeights(options: ReloadOptions = {}): Promise<void> {
    checkCall("reloadWeights", options);
    this.#assertCanMove();
    const { reload } = this.#config;
    if (reload === undefined)
      throw new CamemError(
        "INVALID_CONFIG",
        `the engine ${this.name} cannot load its weights: set the option reload of its SleepController`,
      );
    const { mode = "wait", modelPath } = options;
    await this.#transitions.enqueueGuarded(options.signal, async (signal) => {
      this.#memory.assertWeightsAwake();
      this.#state.beginReload();
      this.#announce();
      try {
        await this.#quiesce({ ...options, mode }, signal);
        await this.#memory.loadAnew(reload, modelPath, signal);
        this.#state.clearFailure();
      } catch (error) {
        this.#state.noteFailure(error);
        throw error;
      } finally {
        this.#state.endTransition();
        this.#applyState();
      }
    });
  }

  /**
   * Aborts the requests in flight, and refuses those that are held. The engine stays as it is. Returns how many there were.
   *
   * @throws CamemError `CLOSED`
   */
  abortRequests(): number {
    this.#assertOpen();
    return this.#admission.abort(abortedByOperator());
  }

  /** Calls `listener` for every event from now on. Returns a function that unsubscribes it. */
  subscribe(listener: EngineListener): () => void {
    return this.#transitions.listeners.subscribe(listener);
  }

  /**
   * Closes the controller: refuses requests that are held, aborts those in flight, and cancels the transition in progress, or
   * waits for it when it is too late to cancel. Waits for no request. Memory stays as it is and belongs to the allocator. Then
   * another controller may take the tags.
   *
   * @throws CamemError `CALLED_FROM_HOOK`
   */
  async close(): Promise<void> {
    this.#transitions.assertOutside();
    this.#closing ??= this.#closeNow();
    return this.#closing;
  }

  /** Makes `await using` close the controller. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #closeNow(): Promise<void> {
    this.#state.close();
    const closed = closedError();
    const ended = this.#transitions.end(closed);
    this.#admission.close(closed);
    this.#announce();
    await ended;
    this.#releaseTags();
  }

  #assertOpen(): void {
    if (this.#state.isClosed) throw closedError();
  }

  #assertCanMove(): void {
    this.#assertOpen();
    this.#transitions.assertOutside();
  }

  /** Refuses unknown tags at once and without events. */
  #assertKnown({ tags, level, offloadTags }: EnginePlanOptions): void {
    try {
      this.plan("sleep", { tags, level, offloadTags });
    } catch (error) {
      this.#state.noteFailure(error);
      this.#applyState();
      throw error;
    }
  }

  #assertWanted({ onlyIf }: Pick<EngineSleepOptions, "onlyIf">): void {
    if (onlyIf?.() === false)
      throw new CamemError(
        "STATE_CONFLICT",
        `onlyIf no longer holds for the engine ${this.name}, which is ${this.status.state}; nothing has changed`,
      );
  }

  #depthOf({ level = defaultLevel, offloadTags, tags }: EngineSleepOptions): SleepDepth {
    const offloadNames = this.#tags.withMemory(offloadTags);
    return offloadNames === undefined ? { level } : this.#memory.depthOf(offloadNames, tags);
  }

  async #sleepNow(
    identity: TransitionIdentity,
    depth: SleepDepth,
    options: EngineSleepOptions,
    signal: AbortSignal,
  ): Promise<EngineSleepResult> {
    const { level } = depth;
    const { reason = "operator" } = options;
    if (level > 0) this.#tags.warnIfEmpty(this.name);
    const names = this.#tags.withMemory(options.tags);
    if (this.#memory.prepareSleep(depth, names, reason))
      return { level: this.#memory.sleeping?.level ?? level, alreadySleeping: true, report: null };
    this.#state.beginSleep(reason);
    this.#announce();
    await this.#quiesce(options, signal);
    const control = this.#transitions.controlOf(identity, signal);
    const report = await this.#memory.sleep(depth, names, reason, control);
    return { level: this.#memory.sleeping?.level ?? level, alreadySleeping: false, report };
  }

  #wakeUp(
    options: Omit<EngineWakeOptions, "reason">,
    reason: TransitionIdentity["reason"],
  ): Promise<EngineWakeResult> {
    const { tags } = options;
    return this.#transitions.enqueue(options.signal, async (signal) => {
      this.#assertWanted(options);
      const nothingDone = { tags: tags ?? null, alreadyAwake: true, report: null };
      // Since the wake-up was enqueued an operator may have put the engine to sleep, or the client may have disconnected.
      if (reason === "request" && !this.#admission.isWakeUpWanted) return nothingDone;
      return this.#runTransition(
        { operation: "wake", level: null, tags: tags ?? null, reason },
        async (identity) => {
          const woken = await this.#wakeNow(identity, tags, signal);
          return { result: { ...nothingDone, ...woken }, noOp: woken.alreadyAwake };
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
    const names = this.#memory.wakeScope(this.#tags.withMemory(tags));
    if (this.#memory.asleepAmong(names).length > 0) {
      this.#state.beginWakeUp();
      this.#announce();
    }
    let report: WakeReport | null = null;
    let laterFailure: CamemError | undefined;
    try {
      const control = this.#transitions.controlOf(identity, signal);
      report = await this.#memory.wake(names, control, this.#admission.ordered);
    } catch (error) {
      if (!isComplete(error)) throw error;
      laterFailure = error;
    }
    const reloads = reload !== undefined && this.#memory.canLoad;
    if (reloads) {
      this.#state.beginReload();
      this.#announce();
      await this.#memory.load(reload, before, signal);
    }
    if (laterFailure !== undefined) throw laterFailure;
    return { alreadyAwake: report === null && !reloads, report };
  }

  #runTransition<Result extends { readonly report: SleepReport | WakeReport | null }>(
    requested: Omit<TransitionIdentity, "id">,
    run: (identity: TransitionIdentity) => Promise<{ readonly result: Result; readonly noOp: boolean }>,
  ): Promise<Result> {
    return this.#transitions.run(requested, {
      run,
      settle: (outcome) => {
        const hasMoved = "error" in outcome ? isComplete(outcome.error) : outcome.result.report !== null;
        if (hasMoved) this.#state.clearFailure();
        if ("error" in outcome) this.#state.noteFailure(outcome.error);
        else this.#state.noteReached();
        this.#state.endTransition();
        this.#applyState();
      },
    });
  }

  async #quiesce(
    { mode = "abort", deadlineMs = this.#config.drainDeadlineMs }: PauseOptions,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#admission.quiesce(mode, { deadlineMs, signal });
  }

  #applyState(): void {
    this.#announce();
    this.#admission.update();
  }

  /** Emits a `state` event if anything has changed since the latest. */
  #announce(): void {
    const previous = this.#announced.state;
    if (this.#announced.update()) this.#transitions.emit({ type: "state", previous, status: this.status });
  }
}

function closedError(): CamemError {
  return new CamemError("CLOSED", "the controller of this engine is closed");
}
