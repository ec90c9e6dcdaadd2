import { AsyncLocalStorage } from "node:async_hooks";
import Type from "typebox";
import { Backup, type BufferOwner, type BufferState, DeviceBuffer, segmentRelease } from "./buffer.ts";
import { type AllocatorOptions, type Config, resolveConfig } from "./config.ts";
import { CamemError } from "./errors.ts";
import {
  aborted,
  execute,
  type Operation,
  type TransitionControl,
  type TransitionDurations,
} from "./execute.ts";
import * as native from "./ffi/native.ts";
import { Hooks, type TransitionHooks } from "./hooks.ts";
import {
  actionOf,
  checkSleepRequest,
  checkWakeRequest,
  type SleepLevel,
  type SleepSelection,
  unknownTag,
} from "./levels.ts";
import { bytesOf, planSleep, planWake, type Segment, type SegmentState, type Step, tagsOf } from "./plan.ts";
import { checkSize, MemoryPool } from "./pool.ts";
import { assertFits, assess, type TransitionPlan } from "./preflight.ts";
import {
  checkTag,
  defaultTag,
  discardPolicy,
  PartialTagPolicy,
  persistentTag,
  presetPolicies,
  type TagPolicy,
} from "./tags.ts";
import { show, validate } from "./validate.ts";

export interface MallocOptions {
  /** The tag; by default that of the `useMemoryPool` body this is called in, else `default`. */
  readonly tag?: string | undefined;
  /** The device number; by default the allocator's. */
  readonly device?: number | undefined;
}

const OptionalTag = Type.Optional(Type.String({ description: "a tag name" }));
const OptionalDevice = Type.Optional(Type.Number({ description: "a device number" }));
const MallocSchema = Type.Object(
  { tag: OptionalTag, device: OptionalDevice },
  { additionalProperties: false },
);
const PoolSchema = Type.Object({ device: OptionalDevice }, { additionalProperties: false });
const optionCodes = { tag: "INVALID_TAG", device: "UNKNOWN_DEVICE" } as const;

export interface SleepOptions extends SleepSelection, TransitionControl {}

export interface WakeOptions extends TransitionControl {
  /** Wakes only these tags; all by default. */
  readonly tags?: readonly string[] | undefined;
}

export interface SleepReport {
  /** The level that was asked for, or null with `offloadTags`. */
  readonly level: SleepLevel | null;
  /** Bytes whose content went to the host. */
  readonly offloadedBytes: number;
  /** Bytes whose content is gone, backups that were dropped included. */
  readonly discardedBytes: number;
  /** Bytes still mapped on the device. */
  readonly keptBytes: number;
  /** Bytes of device memory given back. */
  readonly freedBytes: number;
  /** True when nothing was to be done because all that was asked for was asleep. */
  readonly alreadySleeping: boolean;
  readonly durations: TransitionDurations;
}

export interface WakeReport {
  /** Bytes that have their content back. */
  readonly restoredBytes: number;
  /** Bytes mapped again with undefined content. */
  readonly remappedBytes: number;
  /** The tags of remapped memory: load their content again before using it. */
  readonly remappedTags: readonly string[];
  /** The tags of which some memory is still asleep. */
  readonly stillAsleep: readonly string[];
  /** True when nothing was to be done because all that was asked for was awake. */
  readonly alreadyAwake: boolean;
  readonly durations: TransitionDurations;
}

/** The memory of one tag. Sizes are bytes of whole segments. */
export interface TagUsage {
  readonly mappedBytes: number;
  /** Page-locked host memory that holds backups. */
  readonly hostBytes: number;
  /** Address space without content. */
  readonly discardedBytes: number;
  readonly segments: number;
  /** `partial` while some of it is awake and some asleep. */
  readonly state: "awake" | "asleep" | "partial";
}

const noDurations: TransitionDurations = {
  totalMs: 0,
  waitingMs: 0,
  preparingMs: 0,
  mappingMs: 0,
  copyingMs: 0,
  verifyingMs: 0,
  releasingMs: 0,
};

/** Refusals of one and the same plan as stale: a race resolves itself long before. */
const stalePlansAtMost = 100;

const stateNames = new Map<number, SegmentState>([
  [native.SegmentState.mapped, "mapped"],
  [native.SegmentState.offloaded, "offloaded"],
  [native.SegmentState.discarded, "discarded"],
]);

function stateName(state: number): SegmentState {
  const name = stateNames.get(state);
  if (name === undefined)
    throw new TypeError(`libcamem.so reported the unknown segment state ${state}: rebuild it`);
  return name;
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}

function isComplete(error: unknown): error is CamemError {
  return error instanceof CamemError && error.transitionComplete;
}

let instance: { allocator: CaMemAllocator; config: Config } | undefined;

/**
 * The allocator of this process: device memory under tags that can be put to sleep and woken at the same addresses.
 *
 * A sleep or wake-up is all or nothing, runs on a thread of its own and never blocks the event loop. Calls made while one is
 * running take their turn after it.
 */
export class CaMemAllocator {
  readonly #config: Config;
  readonly #deviceCount: number;
  readonly #policies = new Map<string, TagPolicy>(Object.entries(presetPolicies));
  /** Tag numbers of the shim and their names; both are fixed for as long as the shim is attached. */
  readonly #tagIds = new Map<string, number>();
  readonly #tagNames = new Map<number, string>();
  readonly #regionTag = new AsyncLocalStorage<string>();
  readonly #pools = new Map<string, MemoryPool>();
  /** Aborted when closing begins, which ends every transition. */
  readonly #ending = new AbortController();
  readonly #hooks = new Hooks(this.#ending.signal);
  readonly #owner: BufferOwner = {
    stateOf: (segment) => this.#stateOf(segment),
    assertOpen: () => this.#assertOpen(),
  };
  /** Settles when the transition that was asked for last has ended. */
  #lastTransition: Promise<unknown> = Promise.resolve();
  #state: "open" | "closing" | "half closed" | "closed" = "open";
  #closing: Promise<void> | undefined;

  private constructor(config: Config) {
    this.#config = config;
    native.attach(config.aclLibrary ?? (config.backend === "emulator" ? native.emulatorLibraryPath : null));
    this.#deviceCount = native.runtimeInfo().deviceCount;
  }

  /**
   * The one allocator of this process (of each Worker; Workers share the table of segments). The first call opens AscendCL
   * (aclInit, aclrtGetDeviceCount).
   *
   * @throws CamemError `INVALID_CONFIG`; `CONFIG_CONFLICT` when it exists with other options; `LIBRARY_NOT_FOUND`,
   * `LIBRARY_INVALID` or `BACKEND_UNAVAILABLE` naming what was tried
   */
  static getInstance(options?: AllocatorOptions): CaMemAllocator {
    if (instance === undefined) {
      const config = resolveConfig(options);
      instance = { allocator: new CaMemAllocator(config), config };
    } else if (options !== undefined) {
      const wanted = resolveConfig(options);
      const existing = instance.config;
      const names = Object.keys(wanted) as (keyof Config)[];
      const different = names.find((name) => wanted[name] !== existing[name]);
      if (different !== undefined)
        throw new CamemError(
          "CONFIG_CONFLICT",
          `the allocator of this process has ${different} ${existing[different]}, not ${wanted[different]}; close() it first`,
        );
    }
    return instance.allocator;
  }

  /** Which kind of device this is, by which library. */
  get backend(): { readonly kind: "ascend" | "emulator"; readonly library: string } {
    this.#assertOpen();
    return { kind: this.#config.backend, library: native.runtimeInfo().libraryPath };
  }

  /** True from the moment anything sleeps until everything that slept is awake. */
  get isSleeping(): boolean {
    return this.#segments().some((segment) => segment.state !== "mapped");
  }

  /**
   * Calls `body` with the memory pool of `tag`. Until it returns, or its promise settles, `malloc` inside it and native
   * allocations (`my_malloc`) carry the tag; the previous tag is back afterwards, also when it throws.
   *
   * @returns what `body` returns
   * @throws CamemError `INVALID_TAG` or `CLOSED`, and whatever `body` throws
   */
  useMemoryPool<T>(tag: string, body: (pool: MemoryPool) => T): T {
    if (typeof body !== "function")
      throw new CamemError("INVALID_ARGUMENT", `the body is ${show(body)}; it must be a function`);
    const pool = this.memoryPool(tag);
    const token = native.enterRegion(this.#tagId(tag));
    const leave = () => native.leaveRegion(token);
    let result: T;
    try {
      result = this.#regionTag.run(tag, () => body(pool));
    } catch (error) {
      leave();
      throw error;
    }
    if (!isThenable(result)) {
      leave();
      return result;
    }
    return Promise.resolve(result).finally(leave) as T;
  }

  /**
   * The pool that sub-allocates under `tag` on a device. There is one for each tag and device.
   *
   * @throws CamemError `INVALID_TAG`, `UNKNOWN_DEVICE` or `CLOSED`
   */
  memoryPool(tag: string, options: { readonly device?: number | undefined } = {}): MemoryPool {
    checkTag(tag);
    validate(PoolSchema, options, "the options of memoryPool", "INVALID_ARGUMENT", optionCodes);
    const device = this.#device(options.device);
    const key = `${device} ${tag}`;
    const existing = this.#pools.get(key);
    if (existing) return existing;
    const source = {
      granularityBytes: native.memoryInfo(device).granularityBytes,
      allocate: (sizeBytes: number) => native.allocateSegment(device, this.#tagId(tag), sizeBytes),
    };
    const pool = new MemoryPool(tag, device, this.#config.poolSegmentBytes, source, this.#owner);
    this.#pools.set(key, pool);
    return pool;
  }

  /**
   * A segment of its own, of `sizeBytes` rounded up to the device's granularity of 2 MiB (aclrtReserveMemAddress,
   * aclrtMallocPhysical, aclrtMapMem). For many small buffers use a pool.
   *
   * @throws CamemError `INVALID_SIZE`, `INVALID_TAG`, `UNKNOWN_DEVICE`, `OUT_OF_DEVICE_MEMORY`, `ACL_CALL_FAILED`,
   * `DEVICE_LOST` or `CLOSED`
   */
  malloc(sizeBytes: number, options: MallocOptions = {}): DeviceBuffer {
    checkSize(sizeBytes);
    validate(MallocSchema, options, "the options of malloc", "INVALID_ARGUMENT", optionCodes);
    const tag = options.tag ?? this.#regionTag.getStore() ?? defaultTag;
    checkTag(tag);
    const device = this.#device(options.device);
    const segment = native.allocateSegment(device, this.#tagId(tag), sizeBytes);
    return new DeviceBuffer(this.#owner, {
      segment,
      offsetBytes: 0,
      sizeBytes,
      tag,
      device,
      release: segmentRelease(segment),
    });
  }

  /**
   * Puts memory to sleep: waits for the devices, copies what is to be kept to page-locked host memory, then gives the device
   * memory back (aclrtSynchronizeDeviceWithTimeout, aclrtMallocHost, aclrtMemcpyAsync, aclrtUnmapMem, aclrtFreePhysical).
   * Addresses stay reserved. By default level 1; `offloadTags` offloads those tags and discards the rest; `tags` lets only
   * those sleep. All or nothing: after a rejection everything is as it was and the call can be made again, unless the error's
   * `transitionComplete` says that the sleep has taken place and only giving memory back has failed.
   *
   * @throws CamemError `UNKNOWN_LEVEL`, `UNKNOWN_TAG`, `INVALID_TAG`, `INVALID_ARGUMENT`, `HOST_BUDGET_EXCEEDED`,
   * `OUT_OF_HOST_MEMORY`, `ABORTED`, `HOOK_FAILED`, `CALLED_FROM_HOOK`, `ACL_CALL_FAILED`, `DEVICE_LOST` or `CLOSED`
   */
  async sleep(options: SleepOptions = {}): Promise<SleepReport> {
    this.#assertOpen();
    checkSleepRequest(options, (tag) => this.#isKnown(tag));
    this.#hooks.assertOutside();
    return this.#inTurn(options.signal, (signal) => this.#sleepNow({ ...options, signal }));
  }

  /**
   * Wakes memory at its old addresses (aclrtMallocPhysical, aclrtMapMem, aclrtMemcpyAsync, aclrtFreeHost): offloaded content
   * is back byte for byte, discarded memory has undefined content. All or nothing, as {@link sleep}.
   *
   * @throws CamemError `UNKNOWN_TAG`, `INVALID_TAG`, `INVALID_ARGUMENT`, `OUT_OF_DEVICE_MEMORY`, `BACKUP_CORRUPT`, `ABORTED`,
   * `HOOK_FAILED`, `CALLED_FROM_HOOK`, `ACL_CALL_FAILED`, `DEVICE_LOST` or `CLOSED`
   */
  async wakeUp(options: WakeOptions = {}): Promise<WakeReport> {
    this.#assertOpen();
    checkWakeRequest(options, (tag) => this.#isKnown(tag));
    this.#hooks.assertOutside();
    return this.#inTurn(options.signal, (signal) => this.#wakeNow({ ...options, signal }));
  }

  /**
   * What `sleep` or `wakeUp` with these options would do now: bytes by tag, what is free on the devices (aclrtGetMemInfo)
   * and within the host budget, and whether it fits. Nothing is touched.
   *
   * @throws CamemError as `sleep` and `wakeUp` do for their options, and as `memGetInfo`
   */
  plan(operation: "sleep", options?: SleepSelection): TransitionPlan;
  plan(operation: "wake", options?: Pick<WakeOptions, "tags">): TransitionPlan;
  plan(operation: "sleep" | "wake", options: SleepSelection = {}): TransitionPlan {
    this.#assertOpen();
    const isKnown = (tag: string) => this.#isKnown(tag);
    if (operation === "sleep") {
      checkSleepRequest(options, isKnown);
      return this.#assess(planSleep(this.#segments(), actionOf(options, this.#policies)));
    }
    if (operation === "wake") {
      checkWakeRequest(options, isKnown);
      return this.#assess(planWake(this.#segments(), options.tags));
    }
    throw new CamemError(
      "INVALID_ARGUMENT",
      `the operation is ${show(operation)}; it must be "sleep" or "wake"`,
    );
  }

  /** Bytes of all segments, awake or asleep, of a tag or of all tags. */
  getCurrentUsage(tag?: string): number {
    if (tag !== undefined) checkTag(tag);
    return this.#segments().reduce(
      (sum, segment) => sum + (tag === undefined || segment.tag === tag ? segment.sizeBytes : 0),
      0,
    );
  }

  /** What each tag in use holds where. */
  usage(): Record<string, TagUsage> {
    const segments = this.#segments();
    return Object.fromEntries(
      tagsOf(segments).map((tag) => {
        const own = segments.filter((segment) => segment.tag === tag);
        const bytes = (state: SegmentState) =>
          own.reduce((sum, segment) => sum + (segment.state === state ? segment.sizeBytes : 0), 0);
        const awake = own.filter((segment) => segment.state === "mapped").length;
        const usage: TagUsage = {
          mappedBytes: bytes("mapped"),
          hostBytes: own.reduce((sum, segment) => sum + segment.hostBytes, 0),
          discardedBytes: bytes("discarded"),
          segments: own.length,
          state: awake === own.length ? "awake" : awake === 0 ? "asleep" : "partial",
        };
        return [tag, usage];
      }),
    );
  }

  /**
   * The backups of what is offloaded under a tag. They are readable without the device, also when it is lost.
   *
   * @throws CamemError `INVALID_TAG`, `UNKNOWN_TAG` or `CLOSED`
   */
  backup(tag: string): Backup[] {
    checkTag(tag);
    if (!this.#isKnown(tag)) throw unknownTag(tag);
    return this.#segments()
      .filter((segment) => segment.tag === tag && segment.state === "offloaded" && segment.hostBytes > 0)
      .map((segment) => new Backup(this.#owner, segment));
  }

  /**
   * Free and total bytes of a device, all processes considered (aclrtGetMemInfo).
   *
   * @throws CamemError `UNKNOWN_DEVICE`, `ACL_CALL_FAILED`, `DEVICE_LOST` or `CLOSED`
   */
  memGetInfo(device?: number): { readonly freeBytes: number; readonly totalBytes: number } {
    const { freeBytes, totalBytes } = native.memoryInfo(this.#device(device));
    return { freeBytes, totalBytes };
  }

  /**
   * Says what each sleep level does to a tag. A level left out keeps what it has, which for a new tag is `discard`.
   *
   * @throws CamemError `INVALID_TAG`, also for `sleep_persistent`, which is always kept; `INVALID_ARGUMENT` or `CLOSED`
   */
  defineTag(
    name: string,
    policy: { readonly [Level in keyof TagPolicy]?: TagPolicy[Level] | undefined },
  ): void {
    this.#assertOpen();
    checkTag(name);
    if (name === persistentTag)
      throw new CamemError(
        "INVALID_TAG",
        `the tag "${persistentTag}" is always kept and cannot be defined anew`,
      );
    validate(
      PartialTagPolicy,
      policy,
      'a tag\'s policy, such as { 1: "offload", 2: "discard" },',
      "INVALID_ARGUMENT",
    );
    const existing = this.#policies.get(name) ?? discardPolicy;
    this.#policies.set(name, { 1: policy[1] ?? existing[1], 2: policy[2] ?? existing[2] });
  }

  /**
   * Adds hooks around transitions that move memory; returns a function that takes them away again.
   *
   * @throws CamemError `INVALID_ARGUMENT` or `CLOSED`
   */
  onTransition(hooks: TransitionHooks): () => void {
    this.#assertOpen();
    return this.#hooks.add(hooks);
  }

  /**
   * Cancels a running transition, frees all memory, and lets go of the devices and of AscendCL (aclrtResetDevice,
   * aclFinalizeReference). Addresses become invalid. With other Workers attached, only this one's attachment ends and the
   * memory stays theirs. Closing twice does nothing.
   *
   * @throws CamemError `ACL_CALL_FAILED` or `DEVICE_LOST` when something could not be given back: then the allocator can do
   * nothing but be closed again; `CALLED_FROM_HOOK`
   */
  async close(): Promise<void> {
    this.#hooks.assertOutside();
    this.#closing ??= this.#closeNow();
    return this.#closing;
  }

  async #closeNow(): Promise<void> {
    this.#state = "closing";
    this.#ending.abort(this.#closedError());
    await this.#lastTransition.catch(() => undefined);
    try {
      await native.detach();
    } catch (error) {
      this.#state = "half closed";
      this.#closing = undefined;
      throw error;
    }
    this.#state = "closed";
    if (instance?.allocator === this) instance = undefined;
  }

  /** Makes `await using` close the allocator. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #assertOpen(): void {
    if (this.#state !== "open") throw this.#closedError();
  }

  #closedError(): CamemError {
    const mend = {
      open: "",
      closing: "is being closed; await its close(), then call CaMemAllocator.getInstance()",
      "half closed": "could not give everything back when it was closed; call close() again",
      closed: "is closed; call CaMemAllocator.getInstance() again",
    }[this.#state];
    return new CamemError("CLOSED", `the allocator ${mend}`);
  }

  #device(device: number = this.#config.device): number {
    this.#assertOpen();
    const deviceCount = this.#deviceCount;
    if (Number.isSafeInteger(device) && device >= 0 && device < deviceCount) return device;
    throw new CamemError(
      "UNKNOWN_DEVICE",
      `the device is ${show(device)}; there ${deviceCount === 1 ? "is only device 0" : `are devices 0 to ${deviceCount - 1}`}`,
    );
  }

  #tagId(name: string): number {
    const known = this.#tagIds.get(name);
    if (known !== undefined) return known;
    const id = native.internTag(name);
    this.#tagIds.set(name, id);
    this.#tagNames.set(id, name);
    return id;
  }

  #tagName(id: number): string {
    const known = this.#tagNames.get(id);
    if (known !== undefined) return known;
    const name = native.tagName(id);
    this.#tagNames.set(id, name);
    return name;
  }

  /** Tags with a policy, tags used here, and tags that another Worker or a native thread uses. */
  #isKnown(tag: string): boolean {
    return (
      this.#policies.has(tag) ||
      this.#tagIds.has(tag) ||
      this.#segments().some((segment) => segment.tag === tag)
    );
  }

  #segments(): Segment[] {
    this.#assertOpen();
    return this.#readTable();
  }

  #readTable(): Segment[] {
    return native
      .snapshot()
      .filter((segment) => segment.doomed === 0)
      .map((segment) => ({
        ...segment,
        tag: this.#tagName(segment.tag),
        state: stateName(segment.state),
        moving: segment.moving === 1,
        unreleased: segment.unreleased === 1,
      }));
  }

  #stateOf(segment: native.SegmentName): BufferState {
    const info = this.#state === "open" ? native.segmentInfo(segment) : undefined;
    if (info === undefined || info.doomed === 1) return "freed";
    return info.moving === 1 ? "moving" : stateName(info.state);
  }

  /** Runs transitions one after the other; closing or aborting ends the wait. */
  #inTurn<T>(signal: AbortSignal | undefined, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const either = signal ? AbortSignal.any([signal, this.#ending.signal]) : this.#ending.signal;
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const abort = () => reject(aborted(either));
    if (either.aborted) abort();
    either.addEventListener("abort", abort, { once: true });
    const start = async () => {
      // From here on the transition itself heeds the signal, and says when it was too late.
      either.removeEventListener("abort", abort);
      if (either.aborted) return;
      await run(either).then(resolve, reject);
    };
    this.#lastTransition = this.#lastTransition.then(start, start);
    return promise;
  }

  async #sleepNow(options: SleepOptions & { readonly signal: AbortSignal }): Promise<SleepReport> {
    const wanted = actionOf(options, this.#policies);
    const planned = planSleep(this.#readTable(), wanted);
    if (planned.length === 0) return this.#sleepReport(options, [], noDurations);
    assertFits(this.#assess(planned));
    const tags = tagsOf(planned.map((step) => step.segment));
    await this.#hooks.beforeSleep(tags, options.signal);
    // What was allocated since, by a hook or a native thread, no hook was told of: it stays awake.
    const known = new Set(planned.map((step) => step.segment.segmentId));
    const plan = () =>
      planSleep(this.#readTable(), wanted).filter((step) => known.has(step.segment.segmentId));
    try {
      const { steps, durations } = await this.#run("sleep", plan, options);
      return this.#sleepReport(options, steps, durations);
    } catch (error) {
      // What `beforeSleep` dropped has to be built again, unless the memory is asleep all the same.
      if (!isComplete(error)) await this.#afterFailedSleep(known, error);
      throw error;
    }
  }

  async #afterFailedSleep(planned: ReadonlySet<number>, failure: unknown): Promise<void> {
    const concerned = this.#readTable().filter((segment) => planned.has(segment.segmentId));
    const tags = tagsOf(concerned.filter((segment) => segment.state === "mapped"));
    if (tags.length > 0) await this.#hooks.afterWake({ tags, reason: "sleepFailed" }, failure);
  }

  async #wakeNow(options: WakeOptions & { readonly signal: AbortSignal }): Promise<WakeReport> {
    const plan = () => planWake(this.#readTable(), options.tags);
    const planned = plan();
    if (planned.length === 0) return this.#wakeReport([], noDurations);
    const asleep = planned.filter((step) => step.action !== "drop_backup");
    const tags = tagsOf(asleep.map((step) => step.segment));
    const { steps, durations } = await this.#run("wake-up", plan, options).catch(async (error) => {
      if (isComplete(error) && tags.length > 0) await this.#hooks.afterWake({ tags, reason: "wake" }, error);
      throw error;
    });
    if (tags.length > 0) await this.#hooks.afterWake({ tags, reason: "wake" });
    return this.#wakeReport(steps, durations);
  }

  /** Plans, checks and executes; plans anew while another Worker or a native thread changes the table meanwhile. */
  async #run(
    operation: Operation,
    plan: () => Step[],
    control: TransitionControl & { readonly signal: AbortSignal },
  ): Promise<{ steps: Step[]; durations: TransitionDurations }> {
    let stale = { plan: "", count: 0 };
    while (true) {
      if (control.signal.aborted) throw aborted(control.signal);
      const steps = plan();
      if (steps.length === 0) return { steps, durations: noDurations };
      assertFits(this.#assess(steps));
      const outcome = steps.some((step) => step.segment.moving)
        ? "busy"
        : await execute(operation, steps, { ...control, verify: this.#config.verify });
      if (typeof outcome === "object") return { steps, durations: outcome };
      if (outcome === "stale") {
        const refusal = JSON.stringify(steps);
        stale = { plan: refusal, count: refusal === stale.plan ? stale.count + 1 : 1 };
        if (stale.count > stalePlansAtMost)
          throw new TypeError("libcamem.so refuses a plan that fits: a bug of camem's");
      }
      await Bun.sleep(1);
    }
  }

  #assess(steps: readonly Step[]): TransitionPlan {
    return assess(steps, this.#readTable(), {
      hostBudgetBytes: this.#config.hostBudgetBytes,
      freeDeviceBytes: (device) => native.memoryInfo(device).freeBytes,
    });
  }

  #sleepReport(options: SleepOptions, steps: readonly Step[], durations: TransitionDurations): SleepReport {
    const segments = this.#readTable();
    const kept = segments.filter((segment) => segment.state === "mapped");
    const wanted = actionOf(options, this.#policies);
    const concerned = segments.filter((segment) => wanted(segment.tag) !== "keep");
    return {
      level: options.offloadTags === undefined ? (options.level ?? 1) : null,
      offloadedBytes: bytesOf(steps, "offload"),
      discardedBytes: bytesOf(steps, "discard"),
      keptBytes: kept.reduce((sum, segment) => sum + segment.sizeBytes, 0),
      freedBytes: steps.reduce((sum, step) => sum + step.segment.committedBytes, 0),
      alreadySleeping: steps.length === 0 && concerned.length > 0,
      durations,
    };
  }

  #wakeReport(steps: readonly Step[], durations: TransitionDurations): WakeReport {
    const asleep = this.#readTable().filter((segment) => segment.state !== "mapped");
    const remapped = steps.filter((step) => step.action === "remap").map((step) => step.segment);
    return {
      restoredBytes: bytesOf(steps, "restore"),
      remappedBytes: bytesOf(steps, "remap"),
      remappedTags: tagsOf(remapped),
      stillAsleep: tagsOf(asleep),
      alreadyAwake: steps.every((step) => step.action === "drop_backup"),
      durations,
    };
  }
}
