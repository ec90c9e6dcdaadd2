import { AsyncLocalStorage } from "node:async_hooks";
import { existsSync, statfsSync } from "node:fs";
import Type from "typebox";
import { Backup, type BufferOwner, type BufferState, DeviceBuffer, segmentRelease } from "./buffer.ts";
import { type AllocatorOptions, type Config, resolveConfig } from "./config.ts";
import { CamemError } from "./errors.ts";
import {
  aborted,
  follow,
  type Operation,
  type TransitionControl,
  type TransitionDurations,
} from "./execute.ts";
import * as native from "./ffi/native.ts";
import { Hooks, type TransitionHooks } from "./hooks.ts";
import {
  checkSleepRequest,
  checkWakeRequest,
  type SleepLevel,
  type SleepSelection,
  treatmentOf,
  unknownTag,
} from "./levels.ts";
import {
  backupBytesNeeded,
  bytesOf,
  type Portion,
  planSleep,
  planWake,
  type SegmentState,
  type Step,
  spillBeyond,
  type TagTreatment,
  tagsOf,
} from "./plan.ts";
import { checkSize, MemoryPool } from "./pool.ts";
import { assertFits, assess, hostBytesLeft, type TransitionPlan } from "./preflight.ts";
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
  /** Bytes whose content is kept off the device: on the host, in the spill folder or in a checkpoint. */
  readonly offloadedBytes: number;
  /** Of those, bytes that were copied; the others had an unchanged backup. */
  readonly copiedBytes: number;
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

export interface PrepareReport {
  /** Page-locked host memory that is free for the next sleep. */
  readonly preparedBytes: number;
  readonly durations: TransitionDurations;
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

/** The table as planning sees it. */
interface Table {
  readonly portions: readonly Portion[];
  /** Segments with higher ids are younger. */
  readonly lastSegmentId: number;
}

/** The steps of a transition, and the table that they were planned for. */
interface Planned extends Table {
  readonly steps: readonly Step[];
}

/** What hooks were told of. */
interface Known {
  readonly tags: readonly string[];
  readonly lastSegmentId: number;
}

interface Control {
  readonly signal: AbortSignal;
}

/** Nothing where the folder is gone: what does not spill needs none. */
function freeDiskBytes(folder: string | null): number | undefined {
  if (folder === null) return undefined;
  if (!existsSync(folder)) return 0;
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
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
  /** Loads of checkpoints that are under way, by tag, and whether one that overlapped with them has failed. */
  readonly #loads = new Map<string, { count: number; failed: boolean }>();
  /** Aborted when closing begins, which ends every transition. */
  readonly #ending = new AbortController();
  readonly #hooks = new Hooks(this.#ending.signal);
  readonly #owner: BufferOwner = {
    stateOf: (segment) => this.#stateOf(segment),
    isImmutable: (segment) => native.segmentInfo(segment)?.sealed === 1,
    assertOpen: () => this.#assertOpen(),
  };
  /** Settles when the transition that was asked for last has ended. */
  #lastTransition: Promise<unknown> = Promise.resolve();
  #state: "open" | "closing" | "half closed" | "closed" = "open";
  #closing: Promise<void> | undefined;
  #idleTimer: Timer | undefined;

  private constructor(config: Config) {
    this.#config = config;
    native.attach(config.aclLibrary ?? (config.backend === "emulator" ? native.emulatorLibraryPath : null));
    this.#deviceCount = native.runtimeInfo().deviceCount;
    if (config.spillDir !== null) native.setSpillFolder(config.spillDir);
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
      return this.#assess(this.#planSleep(treatmentOf(options, this.#policies)));
    }
    if (operation === "wake") {
      checkWakeRequest(options, isKnown);
      return this.#assess(this.#planWake(options.tags));
    }
    throw new CamemError(
      "INVALID_ARGUMENT",
      `the operation is ${show(operation)}; it must be "sleep" or "wake"`,
    );
  }

  /** Bytes of all segments, awake or asleep, of a tag or of all tags. */
  getCurrentUsage(tag?: string): number {
    if (tag !== undefined) checkTag(tag);
    return this.#usageByTag().reduce(
      (sum, usage) => sum + (tag === undefined || usage.name === tag ? usage.sizeBytes : 0),
      0,
    );
  }

  /** What each tag in use holds where. */
  usage(): Record<string, TagUsage> {
    return Object.fromEntries(
      this.#usageByTag().map((own) => {
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
    checkSleepRequest(options, (tag) => this.#isKnown(tag));
    this.#hooks.assertOutside();
    return this.#inTurn(options.signal, (signal) => this.#prepareNow({ ...options, signal }));
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
    native.sealTag(this.#tagId(tag), tag, false);
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
    native.sealTag(this.#tagId(tag), tag, true);
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
    const tagId = this.#tagId(tag);
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
    if (immutable !== wasImmutable) native.sealTag(this.#tagId(name), name, immutable);
    this.#policies.set(name, { 1: policy[1] ?? existing[1], 2: policy[2] ?? existing[2], immutable });
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
    clearTimeout(this.#idleTimer);
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
      this.#usageByTag().some((usage) => usage.name === tag)
    );
  }

  /** The sums of each tag in use. */
  #usageByTag(): (native.TagUsage & { readonly name: string })[] {
    this.#assertOpen();
    const used = native.usage().filter((usage) => usage.segments > 0);
    return used.map((usage) => ({ ...usage, name: this.#tagName(usage.tag) }));
  }

  #readTable(atMost: number = Number.MAX_SAFE_INTEGER): Table {
    let lastSegmentId = 0;
    const portions = native.portions(atMost).map((portion): Portion => {
      lastSegmentId = Math.max(lastSegmentId, portion.lastSegmentId);
      return {
        segments: portion.segments,
        segmentBytes: portion.segmentBytes,
        sizeBytes: portion.segments * portion.segmentBytes,
        committedBytes: portion.committedBytes,
        hostBytes: portion.hostBytes,
        fileBytes: portion.spilledBytes + portion.checkpointBytes,
        device: portion.device,
        tag: this.#tagName(portion.tag),
        tagId: portion.tag,
        state: stateName(portion.state),
        moving: portion.moving === 1,
        unreleased: portion.unreleased === 1,
        clean: portion.clean === 1,
        backedUp: portion.backedUp === 1,
      };
    });
    return { portions, lastSegmentId };
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

  async #sleepNow(options: SleepOptions & Control): Promise<SleepReport> {
    const treatment = treatmentOf(options, this.#policies);
    if (this.#hooks.isEmpty) {
      const { steps, durations } = await this.#run("sleep", () => this.#planSleep(treatment), options);
      return this.#sleepReport(options, steps, durations);
    }
    const planned = this.#planSleep(treatment);
    if (planned.steps.length === 0) return this.#sleepReport(options, [], noDurations);
    assertFits(this.#assess(planned));
    const tags = tagsOf(planned.steps.map((step) => step.portion));
    await this.#hooks.beforeSleep(tags, options.signal);
    // What was allocated since, by a hook or a native thread, no hook was told of: it stays awake.
    const known = { tags, lastSegmentId: planned.lastSegmentId };
    try {
      const plan = () => this.#planSleep(treatment, known);
      const { steps, durations } = await this.#run("sleep", plan, options);
      return this.#sleepReport(options, steps, durations);
    } catch (error) {
      // What `beforeSleep` dropped has to be built again, unless the memory is asleep all the same.
      if (!isComplete(error)) await this.#afterFailedSleep(known, error);
      throw error;
    }
  }

  async #afterFailedSleep(known: Known, failure: unknown): Promise<void> {
    const { portions } = this.#readTable(known.lastSegmentId);
    const concerned = portions.filter((portion) => known.tags.includes(portion.tag));
    const tags = tagsOf(concerned.filter((portion) => portion.state === "mapped"));
    if (tags.length > 0) await this.#hooks.afterWake({ tags, reason: "sleepFailed" }, failure);
  }

  async #wakeNow(options: WakeOptions & Control): Promise<WakeReport> {
    const plan = () => this.#planWake(options.tags);
    const tags = this.#hooks.isEmpty ? [] : tagsOf(plan().steps.map((step) => step.portion));
    const { steps, durations } = await this.#run("wake-up", plan, options).catch(async (error) => {
      if (isComplete(error) && tags.length > 0) await this.#hooks.afterWake({ tags, reason: "wake" }, error);
      throw error;
    });
    if (tags.length > 0) await this.#hooks.afterWake({ tags, reason: "wake" });
    return this.#wakeReport(steps, durations);
  }

  async #prepareNow(options: SleepOptions & Control): Promise<PrepareReport> {
    const planned = this.#planSleep(treatmentOf(options, this.#policies));
    assertFits(this.#assess(planned));
    const device = planned.steps[0]?.portion.device ?? this.#config.device;
    const bytes = backupBytesNeeded(planned.steps).hostBytes + this.#stagingBytes(planned.steps);
    const durations = await this.#submit(
      "preparation",
      () => native.submitPreparation(device, bytes),
      options,
    );
    return { preparedBytes: this.hostUsage().preparedBytes, durations };
  }

  /** Page-locked memory that these steps, or those that undo them, take while they move content to or from files. */
  #stagingBytes(steps: readonly Step[]): number {
    const devices = new Set<number>();
    for (const { spilledSegments, portion } of steps)
      if (spilledSegments > 0 || portion.fileBytes > 0) devices.add(portion.device);
    return devices.size * native.hostInfo().stagingBytes;
  }

  #planSleep(treatment: (tag: string) => TagTreatment, known?: Known): Planned {
    const table = this.#readTable(known?.lastSegmentId);
    const all = planSleep(table.portions, treatment);
    const steps = known === undefined ? all : all.filter(({ portion }) => known.tags.includes(portion.tag));
    if (this.#config.spillDir === null) return { ...table, steps };
    const leftBytes = hostBytesLeft(table.portions, this.#config.hostBudgetBytes);
    return { ...table, steps: spillBeyond(steps, leftBytes) };
  }

  #planWake(tags: readonly string[] | undefined): Planned {
    const table = this.#readTable();
    const isImmutable = (tag: string) => this.#policies.get(tag)?.immutable ?? false;
    return { ...table, steps: planWake(table.portions, tags, isImmutable) };
  }

  /** Plans, checks and executes; plans anew while another Worker or a native thread changes the table meanwhile. */
  async #run(
    operation: Operation,
    plan: () => Planned,
    control: TransitionControl & Control,
  ): Promise<{ steps: readonly Step[]; durations: TransitionDurations }> {
    let steps: readonly Step[] = [];
    let stale = { plan: "", count: 0 };
    const submit = () => {
      const planned = plan();
      steps = planned.steps;
      if (steps.length === 0) return this.#giveBackHost(planned.portions);
      assertFits(this.#assess(planned));
      if (steps.some((step) => step.portion.moving)) return "busy";
      const ticket = native.submitPlan(steps, planned.lastSegmentId, this.#config.verify);
      if (ticket === "stale") {
        const refusal = JSON.stringify(steps);
        stale = { plan: refusal, count: refusal === stale.plan ? stale.count + 1 : 1 };
        if (stale.count > stalePlansAtMost)
          throw new TypeError("libcamem.so refuses a plan that fits: a bug of camem's");
      }
      return ticket;
    };
    const durations = await this.#submit(operation, submit, control);
    return { steps, durations };
  }

  /** Submits until the shim takes it, unless there is nothing to do, and follows it. */
  async #submit(
    operation: Operation,
    submit: () => number | native.Refusal | "nothing",
    control: TransitionControl & Control,
    retainBytes = this.#config.retainBytes,
  ): Promise<TransitionDurations> {
    while (true) {
      if (control.signal.aborted) throw aborted(control.signal);
      // Of several Workers, the one that moves memory has its say.
      native.retainHost(Math.min(retainBytes, Number.MAX_SAFE_INTEGER));
      const ticket = submit();
      if (ticket === "nothing") return noDurations;
      if (typeof ticket === "number")
        return follow(operation, ticket, control).finally(() => {
          if (retainBytes > 0) this.#startIdleTime();
        });
      await Bun.sleep(1);
    }
  }

  #assess({ steps, portions }: Planned): TransitionPlan {
    return assess(steps, portions, {
      hostBudgetBytes: this.#config.hostBudgetBytes,
      freeSpillBytes: () => freeDiskBytes(this.#config.spillDir),
      freeDeviceBytes: (device) => native.memoryInfo(device).freeBytes,
    });
  }

  /** What an earlier plan could not give back of the host is tried again, though there is nothing else to do. */
  #giveBackHost(portions: readonly Portion[]): number | native.Refusal | "nothing" {
    const { freeBytes, reservedBytes } = native.hostInfo();
    const isLeft = portions.some(({ state, clean, backedUp }) => state === "mapped" && !clean && backedUp);
    if (!isLeft && freeBytes <= Math.max(reservedBytes, this.#config.retainBytes)) return "nothing";
    return native.submitPreparation(this.#config.device, reservedBytes);
  }

  /** Starts the idle time of retained host memory anew. */
  #startIdleTime(): void {
    clearTimeout(this.#idleTimer);
    if (!Number.isFinite(this.#config.retainIdleMs) || this.#state !== "open") return;
    const submit = () => native.submitPreparation(this.#config.device, native.hostInfo().reservedBytes);
    const giveBack = (signal: AbortSignal) => this.#submit("preparation", submit, { signal }, 0);
    this.#idleTimer = setTimeout(() => {
      // What fails is tried again by the next transition.
      this.#inTurn(undefined, giveBack).catch(() => undefined);
    }, this.#config.retainIdleMs).unref();
  }

  #sleepReport(options: SleepOptions, steps: readonly Step[], durations: TransitionDurations): SleepReport {
    const usage = this.#usageByTag();
    const treatment = treatmentOf(options, this.#policies);
    const copied = steps.filter((step) => !step.portion.clean);
    return {
      level: options.offloadTags === undefined ? (options.level ?? 1) : null,
      offloadedBytes: bytesOf(steps, "offload"),
      copiedBytes: bytesOf(copied, "offload"),
      discardedBytes: bytesOf(steps, "discard"),
      keptBytes: usage.reduce((sum, tag) => sum + tag.mappedBytes, 0),
      freedBytes: steps.reduce((sum, step) => sum + step.portion.committedBytes, 0),
      alreadySleeping: steps.length === 0 && usage.some((tag) => treatment(tag.name).action !== "keep"),
      durations,
    };
  }

  #wakeReport(steps: readonly Step[], durations: TransitionDurations): WakeReport {
    const remapped = steps.filter((step) => step.action === "remap").map((step) => step.portion);
    const asleep = this.#usageByTag().filter((tag) => tag.awakeSegments < tag.segments);
    return {
      restoredBytes: bytesOf(steps, "restore"),
      remappedBytes: bytesOf(steps, "remap"),
      remappedTags: tagsOf(remapped),
      stillAsleep: asleep.map((tag) => tag.name),
      alreadyAwake: steps.length === 0,
      durations,
    };
  }
}
