import { AsyncLocalStorage } from "node:async_hooks";
import Type from "typebox";
import { CamemError, formatValue } from "./errors.ts";
import * as native from "./ffi/native.ts";
import { Backup, type BufferOwner, type BufferState, DeviceBuffer, segmentRelease } from "./memory/buffer.ts";
import { checkSize, MemoryPool } from "./memory/pool.ts";
import { SegmentTable, stateName } from "./memory/table.ts";
import {
  type AllocatorOptions,
  type Config,
  checkDevice,
  differenceOf,
  environmentNames,
  resolveConfig,
} from "./options/config.ts";
import { validate } from "./options/validate.ts";
import { checkSleepRequest, checkWakeRequest, type SleepSelection, unknownTag } from "./policy/levels.ts";
import {
  checkTag,
  defaultTag,
  discardPolicy,
  PartialTagPolicy,
  persistentTag,
  presetPolicies,
  type TagPolicy,
} from "./policy/tags.ts";
import type { TransitionHooks } from "./transition/hooks.ts";
import type { TransitionPlan } from "./transition/preflight.ts";
import {
  type PrepareReport,
  type SleepOptions,
  type SleepReport,
  Transitions,
  type WakeOptions,
  type WakeReport,
} from "./transition/transitions.ts";

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
const optionCodes = { codes: { tag: "INVALID_TAG", device: "UNKNOWN_DEVICE" } } as const;

/** The memory of one tag. Sizes are bytes of whole segments. */
export interface TagUsage {
  readonly mappedBytes: number;
  /** Page-locked host memory that holds backups, also of immutable memory that is awake. */
  readonly hostBytes: number;
  /** Backups in the spill folder. */
  readonly spilledBytes: number;
  /** Content that the checkpoint it was loaded from stands for. */
  readonly checkpointBytes: number;
  /** Address space without content. */
  readonly discardedBytes: number;
  readonly segments: number;
  /** `partial` while some of it is awake and some asleep. */
  readonly state: "awake" | "asleep" | "partial";
}

/** Page-locked host memory, in bytes. */
export interface HostUsage {
  /** All of it: backups, and what is prepared or retained. */
  readonly pageLockedBytes: number;
  /** Of that, what holds no backup. */
  readonly freeBytes: number;
  /** Of what is free, what `prepare` took for the next sleep; the rest is kept by the `retain` option. */
  readonly preparedBytes: number;
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
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
  readonly #table = new SegmentTable(() => this.#assertOpen());
  readonly #regionTag = new AsyncLocalStorage<string>();
  readonly #pools = new Map<string, MemoryPool>();
  /** Loads of checkpoints that are under way, by tag, and whether one that overlapped with them has failed. */
  readonly #loads = new Map<string, { count: number; failed: boolean }>();
  readonly #transitions: Transitions;
  readonly #owner: BufferOwner = {
    stateOf: (segment) => this.#stateOf(segment),
    isImmutable: (segment) => native.segmentInfo(segment)?.sealed === 1,
    assertOpen: () => this.#assertOpen(),
  };
  #state: "open" | "closing" | "half closed" | "closed" = "open";
  #closing: Promise<void> | undefined;

  private constructor(config: Config) {
    if (config === undefined)
      throw new CamemError("INVALID_ARGUMENT", "there is one allocator: call CaMemAllocator.getInstance()");
    this.#config = config;
    this.#transitions = new Transitions(config, this.#table, this.#policies);
    native.attach(config.aclLibrary ?? (config.backend === "emulator" ? native.emulatorLibraryPath : null));
    this.#deviceCount = native.runtimeInfo().deviceCount;
    try {
      checkDevice(config.device, this.#deviceCount, `the device (${environmentNames.device})`);
    } catch (error) {
      native.abandonAttachment();
      throw error;
    }
    if (config.spillDir !== null) native.setSpillFolder(config.spillDir);
  }

  /**
   * The one allocator of this process (of each Worker; Workers share the table of segments). The first call opens AscendCL
   * (aclInit, aclrtGetDeviceCount).
   *
   * @throws CamemError `INVALID_CONFIG`; `CONFIG_CONFLICT` when it exists with other options; `LIBRARY_NOT_FOUND`,
   * `LIBRARY_INVALID` or `BACKEND_UNAVAILABLE` naming what was tried; `UNKNOWN_DEVICE`
   */
  static getInstance(options?: AllocatorOptions): CaMemAllocator {
    if (instance === undefined) {
      const config = resolveConfig(options);
      instance = { allocator: new CaMemAllocator(config), config };
    } else if (options !== undefined) {
      const difference = differenceOf(instance.config, resolveConfig(options));
      if (difference !== undefined)
        throw new CamemError(
          "CONFIG_CONFLICT",
          `the allocator of this process has ${difference}; close() it first`,
        );
    }
    return instance.allocator;
  }

  /** Which kind of device this is, by which library. */
  get backend(): { readonly kind: "ascend" | "emulator"; readonly library: string } {
    this.#assertOpen();
    return { kind: this.#config.backend, library: native.runtimeInfo().libraryPath };
  }

  /** The device of calls that name none. */
  get device(): number {
    return this.#config.device;
  }

  /** True from the moment anything sleeps until everything that slept is awake. */
  get isSleeping(): boolean {
    this.#assertOpen();
    return native.usage().some((usage) => usage.awakeSegments < usage.segments);
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
      throw new CamemError("INVALID_ARGUMENT", `the body is ${formatValue(body)}; it must be a function`);
    const pool = this.memoryPool(tag);
    const token = native.enterRegion(this.#table.tagId(tag));
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
      allocate: (sizeBytes: number) => native.allocateSegment(device, this.#table.tagId(tag), sizeBytes),
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
    const segment = native.allocateSegment(device, this.#table.tagId(tag), sizeBytes);
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
    this.#transitions.hooks.assertOutside();
    return this.#transitions.sleep(options);
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
    this.#transitions.hooks.assertOutside();
    return this.#transitions.wakeUp(options);
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
      return this.#transitions.sleepPlan(options);
    }
    if (operation === "wake") {
      checkWakeRequest(options, isKnown);
      return this.#transitions.wakePlan(options.tags);
    }
    throw new CamemError(
      "INVALID_ARGUMENT",
      `the operation is ${formatValue(operation)}; it must be "sleep" or "wake"`,
    );
  }

  /** Bytes of all segments, awake or asleep, of a tag or of all tags. */
  getCurrentUsage(tag?: string): number {
    if (tag !== undefined) checkTag(tag);
    return this.#table
      .usageByTag()
      .reduce((sum, usage) => sum + (tag === undefined || usage.name === tag ? usage.sizeBytes : 0), 0);
  }

  /** What each tag in use holds where. */
  usage(): Record<string, TagUsage> {
    return Object.fromEntries(
      this.#table.usageByTag().map((own) => {
        const { mappedBytes, hostBytes, spilledBytes, checkpointBytes, discardedBytes, segments } = own;
        const state: TagUsage["state"] =
          own.awakeSegments === segments ? "awake" : own.awakeSegments === 0 ? "asleep" : "partial";
        const usage: TagUsage = {
          mappedBytes,
          hostBytes,
          spilledBytes,
          checkpointBytes,
          discardedBytes,
          segments,
          state,
        };
        return [own.name, usage];
      }),
    );
  }

  /** The page-locked host memory of this process's allocator: what holds backups, and what is prepared or retained. */
  hostUsage(): HostUsage {
    this.#assertOpen();
    const { heldBytes, freeBytes, reservedBytes } = native.hostInfo();
    return { pageLockedBytes: heldBytes, freeBytes, preparedBytes: Math.min(reservedBytes, freeBytes) };
  }

  /**
   * Page-locks the host memory that `sleep` with these options will need (aclrtMallocHost), on a thread of its own, so that
   * the first sleep is as fast as any. Takes its turn among the transitions. What an earlier preparation holds and this one
   * does not need is given back. By default for level 1.
   *
   * @throws CamemError as `sleep` does for its options; `HOST_BUDGET_EXCEEDED`, `OUT_OF_HOST_MEMORY`, `ABORTED`,
   * `ACL_CALL_FAILED` or `CLOSED`
   */
  async prepare(options: SleepOptions = {}): Promise<PrepareReport> {
    this.#assertOpen();
    checkSleepRequest(options, (tag) => this.#isKnown(tag), "prepare");
    this.#transitions.hooks.assertOutside();
    return this.#transitions.prepare(options);
  }

  /**
   * Ends that the content of a tag's memory is final, so that it can be written: backups of it are dropped, and the next sleep
   * makes new ones. Where the tag is immutable, its content is final again from that sleep on.
   *
   * @throws CamemError `INVALID_TAG`, `UNKNOWN_TAG`, `BUFFER_ASLEEP` while any of it sleeps, `BUFFER_MOVING` or `CLOSED`
   */
  markDirty(tag: string): void {
    this.#assertOpen();
    checkTag(tag);
    if (!this.#isKnown(tag)) throw unknownTag(tag);
    native.sealTag(this.#table.tagId(tag), tag, false);
  }

  /**
   * @internal Called when the loading of a checkpoint under `tags` begins; what it returns is called when it has ended. Content is
   * final once no load writes under its tag any more, unless one of those that overlapped has failed: then it is loaded again.
   */
  noteLoading(tags: ReadonlySet<string>): (succeeded: boolean) => void {
    for (const tag of tags) {
      const loads = this.#loads.get(tag) ?? { count: 0, failed: false };
      loads.count++;
      this.#loads.set(tag, loads);
    }
    return (succeeded) => {
      for (const tag of tags) this.#noteLoaded(tag, succeeded);
      // A preparation that fails has changed nothing: the next sleep does it for itself, and reports what is wrong.
      if (succeeded && this.#loads.size === 0 && this.#config.prepareOnLoad)
        void this.prepare().catch(() => undefined);
    };
  }

  #noteLoaded(tag: string, succeeded: boolean): void {
    const loads = this.#loads.get(tag);
    if (loads === undefined) return;
    loads.count--;
    loads.failed ||= !succeeded;
    if (loads.count > 0) return;
    this.#loads.delete(tag);
    if (loads.failed || this.#state !== "open" || !this.#policies.get(tag)?.immutable) return;
    native.sealTag(this.#table.tagId(tag), tag, true);
  }

  /**
   * The backups of what is offloaded under a tag. They are readable without the device, also when it is lost.
   *
   * @throws CamemError `INVALID_TAG`, `UNKNOWN_TAG` or `CLOSED`
   */
  backup(tag: string): Backup[] {
    checkTag(tag);
    if (!this.#isKnown(tag)) throw unknownTag(tag);
    this.#assertOpen();
    const tagId = this.#table.tagId(tag);
    return native
      .snapshot()
      .filter((segment) => segment.tag === tagId && segment.doomed === 0)
      .filter(({ state }) => stateName(state) === "offloaded")
      .filter((segment) => segment.hostBytes + segment.spilledBytes + segment.checkpointBytes > 0)
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
   * Says what each sleep level does to a tag, and whether its content is final once loaded. What is left out stays as it is,
   * which for a new tag is `discard` and not immutable.
   *
   * @throws CamemError `INVALID_TAG`, also for `sleep_persistent`, which is always kept; `INVALID_ARGUMENT` or `CLOSED`;
   * `BUFFER_ASLEEP` or `BUFFER_MOVING` where memory that is immutable would no longer be
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
    const wasImmutable = existing.immutable ?? false;
    const immutable = policy.immutable ?? wasImmutable;
    if (immutable !== wasImmutable) native.sealTag(this.#table.tagId(name), name, immutable);
    this.#policies.set(name, { 1: policy[1] ?? existing[1], 2: policy[2] ?? existing[2], immutable });
  }

  /**
   * Adds hooks around transitions that move memory; returns a function that takes them away again.
   *
   * @throws CamemError `INVALID_ARGUMENT` or `CLOSED`
   */
  onTransition(hooks: TransitionHooks): () => void {
    this.#assertOpen();
    return this.#transitions.hooks.add(hooks);
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
    this.#transitions.hooks.assertOutside();
    this.#closing ??= this.#closeNow();
    return this.#closing;
  }

  async #closeNow(): Promise<void> {
    this.#state = "closing";
    await this.#transitions.end(this.#closedError());
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
    checkDevice(device, this.#deviceCount);
    return device;
  }

  /** Tags with a policy, tags used here, and tags that another Worker or a native thread uses. */
  #isKnown(tag: string): boolean {
    return (
      this.#policies.has(tag) ||
      this.#table.knows(tag) ||
      this.#table.usageByTag().some((usage) => usage.name === tag)
    );
  }

  #stateOf(segment: native.SegmentName): BufferState {
    const info = this.#state === "open" ? native.segmentInfo(segment) : undefined;
    if (info === undefined || info.doomed === 1) return "freed";
    return info.moving === 1 ? "moving" : stateName(info.state);
  }
}
