import { CamemError, formatValue, permitted } from "./errors.ts";
import {
  abandonAttachment,
  aclLibraryFor,
  attach,
  detach,
  endOwnAttachments,
  localNative,
} from "./ffi/index.ts";
import { InstanceSlot } from "./instance.ts";
import { allocateOnDevice } from "./memory/allocate.ts";
import { type Backup, backupsOf } from "./memory/backup.ts";
import { type BufferOwner, DeviceBuffer, segmentRelease } from "./memory/buffer.ts";
import {
  checkMallocOptions,
  checkMemoryPoolOptions,
  type MallocOptions,
  type MemoryPoolOptions,
} from "./memory/options.ts";
import { checkSize, type MemoryPool } from "./memory/pool.ts";
import { MemoryPools } from "./memory/pool-by-tag.ts";
import { Regions } from "./memory/regions.ts";
import { SegmentTable } from "./memory/table.ts";
import { type HostUsage, segmentBytesOf, type TagUsage, usageByTag } from "./memory/usage.ts";
import {
  type AllocatorOptions,
  type Config,
  checkDevice,
  differenceOf,
  environmentNames,
  resolveConfig,
} from "./options/allocator-options.ts";
import { warnOfMisspeltVariables } from "./options/variables.ts";
import { checkTag, defaultTag } from "./policy/tag-names.ts";
import {
  presetPolicies,
  type SleepSelection,
  TagPolicies,
  type TagPolicyChanges,
} from "./policy/tag-policies.ts";
import type { TransitionHooks } from "./transition/hooks.ts";
import { Lifecycle } from "./transition/lifecycle.ts";
import {
  checkKnownTag,
  type SleepOptions,
  type WakeOptions,
  type WakeSelection,
} from "./transition/options.ts";
import type { TransitionPlan } from "./transition/preflight.ts";
import type { PrepareReport, SleepReport, WakeReport } from "./transition/reports.ts";
import { Transitions } from "./transition/transitions.ts";
import { WakeOrder } from "./transition/wake-order.ts";
import { WakeUp } from "./transition/wake-up.ts";

const open = new InstanceSlot<CaMemAllocator>();

/**
 * The allocator of this process: device memory under tags, which can sleep and wake up at the same addresses.
 *
 * A sleep or wake-up is all or nothing, runs on its own thread and never blocks the event loop. Calls during a transition
 * wait for it, in order.
 */
export class CaMemAllocator {
  readonly #config: Config;
  readonly #deviceCount: number;
  readonly #lifecycle = new Lifecycle(detach, "CaMemAllocator.getInstance()");
  /** End work in progress besides transitions. */
  readonly #ends = new Set<(reason: CamemError) => Promise<void>>();
  readonly #table = new SegmentTable(localNative, () => this.#lifecycle.assertOpen());
  readonly #policies = new TagPolicies(localNative, (tag) => this.#table.tagId(tag));
  readonly #regions = new Regions();
  readonly #pools: MemoryPools;
  readonly #transitions: Transitions;
  readonly #owner: BufferOwner = {
    stateOf: (segment) => (this.#lifecycle.isOpen ? this.#table.stateOf(segment) : "freed"),
    isImmutable: (segment) => localNative.segmentInfo(segment)?.immutable === 1,
    assertOpen: () => this.#lifecycle.assertOpen(),
  };

  private constructor(config: Config) {
    if (config === undefined)
      throw new CamemError("INVALID_ARGUMENT", "there is one allocator: call CaMemAllocator.getInstance()");
    this.#config = config;
    this.#pools = new MemoryPools(this.#table, this.#owner, config.poolSegmentBytes);
    this.#transitions = new Transitions(localNative, config, this.#table, this.#policies, this.#isKnown);
    // `bun test --isolate` leaves nothing but the attachment of the file before.
    if (open.isFirst) endOwnAttachments();
    attach(aclLibraryFor(config.backend, config.aclLibrary));
    this.#deviceCount = localNative.runtimeInfo().deviceCount;
    try {
      checkDevice(config.device, this.#deviceCount, `the device (${environmentNames.device})`);
    } catch (error) {
      abandonAttachment();
      throw error;
    }
    if (config.spillDir !== null) localNative.setSpillFolder(config.spillDir);
  }

  /**
   * Returns the allocator of this process. Each Worker has its own, on a shared table of segments. The first call opens
   * AscendCL (aclInit, aclrtGetDeviceCount). After a reload of `bun --hot`, and in another file of `bun test`, the first call
   * closes an allocator that was left open, and returns a new one.
   *
   * @throws CamemError `INVALID_CONFIG`; `CONFIG_CONFLICT` when it exists with other options; `LIBRARY_NOT_FOUND`,
   * `LIBRARY_INVALID` or `BACKEND_UNAVAILABLE` with the libraries tried; `UNKNOWN_DEVICE`; `CLOSED` while one is closing;
   * `PERMISSION_MISSING` with the flag of Deno that grants it
   */
  static getInstance(options?: AllocatorOptions): CaMemAllocator {
    const existing = open.get();
    if (existing === undefined) {
      const created = permitted(() => {
        // First, since a misspelt variable is often why opening fails.
        warnOfMisspeltVariables(process.env);
        return new CaMemAllocator(resolveConfig(options));
      });
      open.set(created);
      return created;
    }
    const difference = options && differenceOf(existing.#config, resolveConfig(options));
    if (difference !== undefined)
      throw new CamemError("CONFIG_CONFLICT", `${difference}; close() that allocator first`);
    return existing;
  }

  /** The kind of device, and the path of its library. */
  get backend(): {
    /** The backend. */
    readonly kind: "ascend" | "emulator";
    /** The path of its library. */
    readonly library: string;
  } {
    this.#lifecycle.assertOpen();
    return { kind: this.#config.backend, library: localNative.runtimeInfo().libraryPath };
  }

  /** The default device number of `malloc`, `memoryPool` and `memGetInfo`. */
  get device(): number {
    return this.#config.device;
  }

  /** True while any memory is asleep. */
  get isSleeping(): boolean {
    this.#lifecycle.assertOpen();
    return localNative.usage().some((usage) => usage.awakeSegments < usage.segments);
  }

  /**
   * Calls `body` with the memory pool of `tag`. Until `body` returns or its promise settles, `malloc` inside it and native
   * allocations (`my_malloc`) carry the tag: those of this thread, and of threads without a Worker of their own. Bodies nest;
   * then the innermost tag counts. In other cases bodies of different tags must not overlap. While Workers are in bodies of
   * different tags, `my_malloc` returns null to threads without a Worker.
   *
   * @returns the result of `body`
   * @throws CamemError `STATE_CONFLICT` while a body of another tag runs in this Worker that does not enclose this call, as a
   * rejection where `body` is an async function; `INVALID_ARGUMENT`, `INVALID_TAG` or `CLOSED`, and errors of `body`
   */
  useMemoryPool<T>(tag: string, body: (pool: MemoryPool) => T): T {
    if (typeof body !== "function")
      throw new CamemError("INVALID_ARGUMENT", `the body is ${formatValue(body)}; it must be a function`);
    const pool = this.memoryPool(tag);
    return this.#regions.run(tag, this.#table.tagId(tag), body, pool);
  }

  /**
   * Returns the pool that sub-allocates under `tag` on a device; there is one for each tag and device.
   *
   * @throws CamemError `INVALID_TAG`, `INVALID_ARGUMENT`, `UNKNOWN_DEVICE` or `CLOSED`
   */
  memoryPool(tag: string, options: MemoryPoolOptions = {}): MemoryPool {
    checkTag(tag);
    checkMemoryPoolOptions(options);
    return this.#pools.get(tag, this.#device(options.device));
  }

  /**
   * Allocates a segment of `sizeBytes`, rounded up to the device's granularity of 2 MiB (aclrtReserveMemAddress,
   * aclrtMallocPhysical, aclrtMapMem). For many small buffers use a pool.
   *
   * @throws CamemError `INVALID_SIZE`, `INVALID_TAG`, `INVALID_ARGUMENT`, `UNKNOWN_DEVICE`, `OUT_OF_DEVICE_MEMORY`,
   * `ACL_CALL_FAILED`, `DEVICE_LOST` or `CLOSED`
   */
  malloc(sizeBytes: number, options: MallocOptions = {}): DeviceBuffer {
    checkSize(sizeBytes);
    checkMallocOptions(options);
    const tag = options.tag ?? this.#regions.tag ?? defaultTag;
    checkTag(tag);
    const device = this.#device(options.device);
    const segment = allocateOnDevice(device, this.#table.tagId(tag), sizeBytes);
    const release = segmentRelease(segment);
    return new DeviceBuffer(this.#owner, { segment, offsetBytes: 0, sizeBytes, tag, device, release });
  }

  /**
   * Puts memory to sleep: waits for the devices, copies offloaded content to page-locked host memory, then gives the device
   * memory back (aclrtSynchronizeDeviceWithTimeout, aclrtMallocHost, aclrtMemcpyAsync, aclrtUnmapMem, aclrtFreePhysical).
   * Addresses stay reserved. All or nothing: after a rejection nothing has changed and the call can be repeated, unless the
   * error's `transitionComplete` is true; then the memory is asleep and only giving memory back failed.
   *
   * @throws CamemError `UNKNOWN_LEVEL`, `UNKNOWN_TAG`, `INVALID_TAG`, `INVALID_ARGUMENT`, `HOST_BUDGET_EXCEEDED`,
   * `OUT_OF_HOST_MEMORY`, `FILE_FAILED`, `FILE_CHANGED`, `BACKUP_CORRUPT`, `ABORTED`, `HOOK_FAILED`, `CALLED_FROM_HOOK`,
   * `ACL_CALL_FAILED`, `DEVICE_LOST` or `CLOSED`
   */
  async sleep(options: SleepOptions = {}): Promise<SleepReport> {
    this.#lifecycle.assertOpen();
    return this.#transitions.sleep(options);
  }

  /**
   * Wakes memory at its old addresses (aclrtMallocPhysical, aclrtMapMem, aclrtMemcpyAsync, aclrtFreeHost). Offloaded content
   * is back byte for byte; discarded memory has undefined content, or is zeroed where `zero` or its tag's policy says so
   * (aclrtMemsetAsync). All or nothing, like {@link sleep}. With `order` the memory that is used first is ready first.
   *
   * @throws CamemError `UNKNOWN_TAG`, `INVALID_TAG`, `INVALID_ARGUMENT`, `OUT_OF_DEVICE_MEMORY`, `OUT_OF_HOST_MEMORY`,
   * `BACKUP_CORRUPT`, `FILE_FAILED`, `FILE_CHANGED`, `ABORTED`, `HOOK_FAILED`, `CALLED_FROM_HOOK`, `ACL_CALL_FAILED`,
   * `DEVICE_LOST` or `CLOSED`
   */
  wakeUp(options: WakeOptions = {}): WakeUp {
    const order = new WakeOrder(localNative, this.#table, (tag) => checkKnownTag(tag, this.#isKnown));
    return WakeUp.of(this.#wakeUp(options, order), order);
  }

  async #wakeUp(options: WakeOptions, order: WakeOrder): Promise<WakeReport> {
    this.#lifecycle.assertOpen();
    return this.#transitions.wakeUp(options, order);
  }

  /**
   * Plans `sleep` or `wakeUp` with these options, without running it: bytes by tag, free bytes on the devices
   * (aclrtGetMemInfo) and in the host budget, and whether it fits.
   *
   * @throws CamemError as `sleep` and `wakeUp` do for their options, and as `memGetInfo`
   */
  plan(operation: "sleep", options?: SleepSelection): TransitionPlan;
  plan(operation: "wake", options?: WakeSelection): TransitionPlan;
  plan(operation: "sleep" | "wake", options: SleepSelection = {}): TransitionPlan {
    this.#lifecycle.assertOpen();
    return this.#transitions.plan(operation, options);
  }

  /**
   * Bytes of all segments of a tag, awake or asleep; by default of all tags.
   *
   * @throws CamemError `INVALID_TAG` or `CLOSED`
   */
  getCurrentUsage(tag?: string): number {
    if (tag !== undefined) checkTag(tag);
    return segmentBytesOf(this.#table, tag);
  }

  /**
   * Bytes on the device, on the host and in files, by tag.
   *
   * @throws CamemError `CLOSED`
   */
  usage(): Record<string, TagUsage> {
    return usageByTag(this.#table);
  }

  /**
   * Page-locked host memory of this process's allocator: backups, prepared memory and retained memory; and the host budget.
   *
   * @throws CamemError `CLOSED`
   */
  hostUsage(): HostUsage {
    this.#lifecycle.assertOpen();
    return this.#transitions.hostUsage();
  }

  /**
   * Page-locks the host memory that `sleep` with these options will need (aclrtMallocHost), on its own thread, so that the
   * first sleep is as fast as later ones. Gives back what an earlier preparation holds beyond that. Waits for earlier
   * transitions.
   *
   * @throws CamemError as `sleep` does for its options; `HOST_BUDGET_EXCEEDED`, `OUT_OF_HOST_MEMORY`, `FILE_FAILED`,
   * `ABORTED`, `CALLED_FROM_HOOK`, `ACL_CALL_FAILED` or `CLOSED`
   */
  async prepare(options: SleepOptions = {}): Promise<PrepareReport> {
    this.#lifecycle.assertOpen();
    return this.#transitions.prepare(options);
  }

  /**
   * Makes the memory of a tag writable again where its content is immutable: drops its backups, so that the next sleep makes
   * new ones. The content of an immutable tag is immutable again from that sleep on.
   *
   * @throws CamemError `INVALID_TAG`, `UNKNOWN_TAG`, `BUFFER_ASLEEP` while any of it sleeps, `BUFFER_MOVING` or `CLOSED`
   */
  markDirty(tag: string): void {
    this.#lifecycle.assertOpen();
    checkKnownTag(tag, this.#isKnown);
    localNative.setTagImmutable(this.#table.tagId(tag), tag, false);
  }

  /** @internal Makes the content of an immutable tag's memory immutable once its checkpoints are loaded. */
  makeLoadedImmutable(tag: string): void {
    if (this.#lifecycle.isOpen && this.#policies.isImmutable(tag))
      localNative.setTagImmutable(this.#table.tagId(tag), tag, true);
  }

  /** @internal Prepares the next sleep, if `prepareOnLoad` is set. */
  prepareAfterLoad(): void {
    // A failed preparation changes nothing: the next sleep page-locks for itself and reports the failure.
    if (this.#config.prepareOnLoad) void this.prepare().catch(() => undefined);
  }

  /**
   * Returns the backups of a tag's memory: offloaded, or immutable and backed up. They can be read without the device, also
   * after it is lost.
   *
   * @throws CamemError `INVALID_TAG`, `UNKNOWN_TAG` or `CLOSED`
   */
  backup(tag: string): Backup[] {
    checkKnownTag(tag, this.#isKnown);
    this.#lifecycle.assertOpen();
    return backupsOf(this.#table.tagId(tag), this.#owner);
  }

  /**
   * Free and total bytes of a device, across all processes (aclrtGetMemInfo).
   *
   * @throws CamemError `UNKNOWN_DEVICE`, `ACL_CALL_FAILED`, `DEVICE_LOST` or `CLOSED`
   */
  memGetInfo(device?: number): {
    /** Free bytes. */
    readonly freeBytes: number;
    /** Bytes in all. */
    readonly totalBytes: number;
  } {
    const { freeBytes, totalBytes } = localNative.memoryInfo(this.#device(device));
    return { freeBytes, totalBytes };
  }

  /**
   * Sets what each sleep level does to a tag, whether its content is immutable once loaded, and whether a wake-up zeroes what was
   * lost. It counts for every Worker of
   * the process. Properties that are left out keep their value; a new tag is discarded and not immutable.
   *
   * @throws CamemError `INVALID_TAG`, also for `sleep_persistent`, which is always kept; `INVALID_ARGUMENT` or `CLOSED`;
   * `BUFFER_ASLEEP` or `BUFFER_MOVING` when `immutable` becomes false while memory of the tag sleeps or moves
   */
  defineTag(name: string, policy: TagPolicyChanges): void {
    this.#lifecycle.assertOpen();
    this.#policies.define(name, policy);
  }

  /**
   * Adds hooks around transitions that move memory; returns a function that removes them.
   *
   * @throws CamemError `INVALID_ARGUMENT` or `CLOSED`
   */
  onTransition(hooks: TransitionHooks): () => void {
    this.#lifecycle.assertOpen();
    return this.#transitions.hooks.add(hooks);
  }

  /**
   * Cancels a running transition, frees all memory, and releases the devices and AscendCL (aclrtResetDevice,
   * aclFinalizeReference). Addresses become invalid. While other Workers are attached, only this Worker's attachment ends and
   * the memory stays. Closing a closed allocator does nothing.
   *
   * @throws CamemError `ACL_CALL_FAILED` or `DEVICE_LOST` when something could not be given back: the allocator can only be
   * closed again then; `CALLED_FROM_HOOK`
   */
  async close(): Promise<void> {
    this.#transitions.hooks.assertOutside();
    await this.#lifecycle.close(this.#endWork);
    open.clear(this);
  }

  /**
   * @internal Calls `end` when the allocator closes, which waits for it. Returns a function that takes it back.
   */
  onClose(end: (reason: CamemError) => Promise<void>): () => void {
    this.#ends.add(end);
    return () => void this.#ends.delete(end);
  }

  readonly #endWork = async (reason: CamemError): Promise<void> => {
    await Promise.all([...this.#ends].map((end) => end(reason)));
    await this.#transitions.end(reason);
  };

  /** @internal Closes without waiting for transitions, which end with `CLOSED`. */
  abandon(): void {
    this.#lifecycle.abandon(this.#endWork, abandonAttachment);
  }

  /** Closes the allocator at the end of an `await using` scope. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #device(device: number = this.#config.device): number {
    this.#lifecycle.assertOpen();
    checkDevice(device, this.#deviceCount);
    return device;
  }

  /** True for preset tags and for tags that this Worker, another one or a native thread has used or defined. */
  readonly #isKnown = (tag: string): boolean => presetPolicies.has(tag) || this.#table.knows(tag);
}
