import Type, { type Static } from "typebox";
import { Listeners } from "../async/listeners.ts";
import { CamemError, formatValue } from "../errors.ts";
import { connectEngine, type EngineConnection, type EngineInfo } from "../ffi/index.ts";
import { HostBudgets } from "../memory/host-budget.ts";
import { HostMemory } from "../memory/host-memory.ts";
import { SegmentTable, stateName } from "../memory/table.ts";
import { type HostUsage, segmentBytesOf, type TagUsage, usageByTag } from "../memory/usage.ts";
import { AllocatorOptions, checkDevice, resolveConfig } from "../options/allocator-options.ts";
import { millisecondsOf } from "../options/durations.ts";
import { closedObject, Duration, optional } from "../options/schemas.ts";
import { validate } from "../options/validate.ts";
import { checkTag } from "../policy/tag-names.ts";
import {
  enginePolicies,
  type SleepSelection,
  TagPolicies,
  type TagPolicyChanges,
} from "../policy/tag-policies.ts";
import type { TransitionHooks } from "../transition/hooks.ts";
import { Lifecycle } from "../transition/lifecycle.ts";
import type { SleepOptions, WakeOptions, WakeSelection } from "../transition/options.ts";
import type { TransitionPlan } from "../transition/preflight.ts";
import type { PrepareReport, SleepReport, WakeReport } from "../transition/reports.ts";
import { Transitions } from "../transition/transitions.ts";
import { type EngineSegmentStatus, type EngineStatus, segmentStatusOf, statusOf } from "./engine-status.ts";
import { EngineWatch } from "./engine-watch.ts";
import { visibleProcess } from "./process.ts";
import type { RemoteEvent } from "./remote-events.ts";
import { socketPath } from "./sockets.ts";

const RemoteTarget = closedObject({
  /** The number of the engine's process. */
  pid: optional(Type.Integer({ minimum: 1, description: "the number of a process" })),
  /** The path of the engine's control socket. */
  path: optional(Type.String({ minLength: 1, description: "the path of a control socket" })),
});

/** An engine of this user's: by the number of its process, or by the path of its control socket. */
export type RemoteTarget =
  | {
      /** The number of the engine's process. */
      readonly pid: number;
    }
  | {
      /** The path of the engine's control socket. */
      readonly path: string;
    };

const { device, hostBudget, pageable, retain, spillDir, verify } = AllocatorOptions.properties;

const RemoteOptions = closedObject({
  device,
  hostBudget,
  pageable,
  retain,
  spillDir,
  verify,
  /** How long the engine may take to answer, in milliseconds or as a time; by default `"5s"`. */
  timeout: optional(Duration),
});

/** Options of `RemoteAllocator.connect`. Those of an allocator concern what this one plans. */
export interface RemoteOptions
  extends Pick<AllocatorOptions, "device" | "hostBudget" | "pageable" | "retain" | "spillDir" | "verify"> {
  /** How long the engine may take to answer, in milliseconds or as a time; by default `"5s"`. */
  readonly timeout?: number | string | undefined;
}

const defaultTimeout = "5s";

function pathOf(target: RemoteTarget): string {
  validate(RemoteTarget, target, "connect", "INVALID_ARGUMENT");
  const { pid, path }: Static<typeof RemoteTarget> = target;
  if (path !== undefined && pid === undefined) return path;
  if (pid !== undefined && path === undefined) return socketPath(pid);
  throw new CamemError("INVALID_ARGUMENT", "give the engine's pid or the path of its socket, one of the two");
}

/**
 * The memory of an engine in another process, which runs under `libcamem_preload.so`: sleeps and wakes it as
 * {@link CaMemAllocator} does for this process, with the same planning. Calls that read the engine's table block until its
 * control thread answers, which takes microseconds. The engine goes on as it is when this process ends, in any state.
 */
export class RemoteAllocator {
  readonly #connection: EngineConnection;
  readonly #path: string;
  readonly #config: ReturnType<typeof resolveConfig>;
  readonly #deviceCount: number;
  readonly #lifecycle: Lifecycle;
  readonly #table: SegmentTable;
  readonly #policies: TagPolicies;
  readonly #transitions: Transitions;
  readonly #listeners = new Listeners<RemoteEvent>("RemoteAllocator");
  readonly #watch: EngineWatch;
  #last: EngineInfo;
  #gone: CamemError | undefined;

  private constructor(path: string, connection: EngineConnection, config: ReturnType<typeof resolveConfig>) {
    const { native } = connection;
    this.#path = path;
    this.#connection = connection;
    this.#config = config;
    this.#last = native.engineInfo();
    this.#deviceCount = native.runtimeInfo().deviceCount;
    checkDevice(config.device, this.#deviceCount);
    if (config.spillDir !== null) native.setSpillFolder(config.spillDir);
    this.#lifecycle = new Lifecycle(async () => this.#disconnect(), "RemoteAllocator.connect()");
    this.#table = new SegmentTable(native, () => this.#assertUsable());
    this.#policies = new TagPolicies(native, (tag) => this.#table.tagId(tag), enginePolicies);
    const memory = new HostMemory("/", visibleProcess(connection) ?? "self");
    const budgets = new HostBudgets(native, config.hostBudgetBytes, memory);
    this.#transitions = new Transitions(native, config, this.#table, this.#policies, this.#isKnown, budgets);
    connection.onGone = () => this.#noteEnd("it does not answer");
    this.#watch = new EngineWatch(path, {
      onChange: (info) => this.#noteChange(info),
      onEnd: (how) => this.#noteEnd(how),
    });
  }

  /**
   * Connects to an engine.
   *
   * @throws CamemError `INVALID_ARGUMENT`, `INVALID_CONFIG`, `UNKNOWN_DEVICE`; `ENGINE_NOT_FOUND` where nothing serves the
   * socket; `ENGINE_REFUSED` for another user's engine or another version's; `ENGINE_GONE` when it does not answer; `CLOSED`
   * while the engine has not used AscendCL yet or has finalised it
   */
  static async connect(target: RemoteTarget, options: RemoteOptions = {}): Promise<RemoteAllocator> {
    const path = pathOf(target);
    validate(RemoteOptions, options, "connect", "INVALID_ARGUMENT");
    const { timeout = defaultTimeout, ...planning } = options;
    const config = resolveConfig({ ...planning, unknownTags: "offload" });
    const connection = connectEngine(path, millisecondsOf(timeout, "timeout"));
    try {
      return new RemoteAllocator(path, connection, config);
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** The number of the engine's process, in its own namespace. */
  get pid(): number {
    return this.#connection.pid;
  }

  /** The path of the engine's control socket. */
  get path(): string {
    return this.#path;
  }

  /** The default device number of `memGetInfo`. */
  get device(): number {
    return this.#config.device;
  }

  /** The numbers of the devices on which the engine has memory. */
  get devices(): number[] {
    this.#assertUsable();
    const devices = this.#connection.native
      .segmentGroups(Number.MAX_SAFE_INTEGER)
      .groups.map((group) => group.device);
    return [...new Set(devices)].sort((first, second) => first - second);
  }

  /** True while any memory of the engine is asleep. */
  get isSleeping(): boolean {
    return this.#table.tagsInUse().some((usage) => usage.awakeSegments < usage.segments);
  }

  /**
   * What the engine reports about itself now.
   *
   * @throws CamemError `ENGINE_GONE` or `CLOSED`
   */
  status(): EngineStatus {
    this.#assertUsable();
    return statusOf(this.#connection.native.engineInfo());
  }

  /**
   * The engine's segments, how each was written, and which rule applies; and its memory that cannot sleep.
   *
   * @throws CamemError `ENGINE_GONE` or `CLOSED`
   */
  segments(): EngineSegmentStatus[] {
    this.#assertUsable();
    const { native } = this.#connection;
    const rules = native.engineRules();
    const table = new Map(native.snapshot().map((segment) => [segment.segmentId, segment]));
    return native.engineSegments().map((segment) => {
      const entry = table.get(segment.segmentId);
      const known = entry && { tag: this.#table.tagName(entry.tag), state: stateName(entry.state) };
      return segmentStatusOf(segment, rules, known);
    });
  }

  /**
   * As {@link CaMemAllocator.sleep}. Calls of the engine that touch device memory wait from then on, or wake it; see
   * `camem run --on-touch`. Both levels offload everything, but for what the rules of the engine say.
   *
   * @throws CamemError as that, or `ENGINE_GONE`
   */
  async sleep(options: SleepOptions = {}): Promise<SleepReport> {
    this.#assertUsable();
    return this.#transitions.sleep(options);
  }

  /**
   * As {@link CaMemAllocator.wakeUp}.
   *
   * @throws CamemError as that, or `ENGINE_GONE`
   */
  async wakeUp(options: Omit<WakeOptions, "order"> = {}): Promise<WakeReport> {
    this.#assertUsable();
    return this.#transitions.wakeUp(options);
  }

  /**
   * As {@link CaMemAllocator.prepare}.
   *
   * @throws CamemError as that, or `ENGINE_GONE`
   */
  async prepare(options: SleepOptions = {}): Promise<PrepareReport> {
    this.#assertUsable();
    return this.#transitions.prepare(options);
  }

  /**
   * As {@link CaMemAllocator.plan}.
   *
   * @throws CamemError as that, or `ENGINE_GONE`
   */
  plan(operation: "sleep", options?: SleepSelection): TransitionPlan;
  plan(operation: "wake", options?: WakeSelection): TransitionPlan;
  plan(operation: "sleep" | "wake", options: SleepSelection = {}): TransitionPlan {
    this.#assertUsable();
    return this.#transitions.plan(operation, options);
  }

  /**
   * Bytes of all segments of a tag, awake or asleep; by default of all tags.
   *
   * @throws CamemError `INVALID_TAG`, `ENGINE_GONE` or `CLOSED`
   */
  getCurrentUsage(tag?: string): number {
    if (tag !== undefined) checkTag(tag);
    return segmentBytesOf(this.#table, tag);
  }

  /**
   * Bytes on the device, on the host and in files, by tag.
   *
   * @throws CamemError `ENGINE_GONE` or `CLOSED`
   */
  usage(): Record<string, TagUsage> {
    return usageByTag(this.#table);
  }

  /**
   * Page-locked host memory of the engine's process.
   *
   * @throws CamemError `ENGINE_GONE` or `CLOSED`
   */
  hostUsage(): HostUsage {
    this.#assertUsable();
    return this.#transitions.hostUsage();
  }

  /**
   * As {@link CaMemAllocator.memGetInfo}.
   *
   * @throws CamemError as that, or `ENGINE_GONE`
   */
  memGetInfo(device: number = this.#config.device): {
    /** Free bytes. */
    readonly freeBytes: number;
    /** Bytes in all. */
    readonly totalBytes: number;
  } {
    this.#assertUsable();
    checkDevice(device, this.#deviceCount);
    const { freeBytes, totalBytes } = this.#connection.native.memoryInfo(device);
    return { freeBytes, totalBytes };
  }

  /**
   * As {@link CaMemAllocator.defineTag}, for every controller of the engine, now and later.
   *
   * @throws CamemError as that, or `ENGINE_GONE`
   */
  defineTag(name: string, policy: TagPolicyChanges): void {
    this.#assertUsable();
    this.#policies.define(name, policy);
  }

  /**
   * As {@link CaMemAllocator.onTransition}, for transitions of this allocator.
   *
   * @throws CamemError `INVALID_ARGUMENT`, `ENGINE_GONE` or `CLOSED`
   */
  onTransition(hooks: TransitionHooks): () => void {
    this.#assertUsable();
    return this.#transitions.hooks.add(hooks);
  }

  /**
   * Calls `listener` for every event from now on. Returns a function that unsubscribes it.
   *
   * @throws CamemError `INVALID_ARGUMENT`
   */
  subscribe(listener: (event: RemoteEvent) => unknown): () => void {
    return this.#listeners.subscribe(listener);
  }

  /**
   * Cancels a running transition of this allocator and disconnects. The engine and its memory stay as they are.
   *
   * @throws CamemError `CALLED_FROM_HOOK`
   */
  async close(): Promise<void> {
    this.#transitions.hooks.assertOutside();
    await this.#lifecycle.close((reason) => this.#transitions.end(reason));
  }

  /** Closes the allocator at the end of an `await using` scope. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #disconnect(): void {
    this.#watch.stop();
    this.#connection.close();
  }

  #assertUsable(): void {
    this.#lifecycle.assertOpen();
    if (this.#gone !== undefined) throw this.#gone;
  }

  #noteChange(info: EngineInfo): void {
    const last = this.#last;
    if (info.session !== last.session || info.startTime !== last.startTime) {
      this.#noteEnd("it has let go of its devices");
      return;
    }
    this.#last = info;
    const status = statusOf(info);
    if (info.touches > last.touches) this.#listeners.emit({ type: "touched", status });
    if (info.ownWakeUps > last.ownWakeUps) this.#listeners.emit({ type: "woke", status });
    if (info.changes !== last.changes) this.#listeners.emit({ type: "changed", status });
  }

  #noteEnd(how: string): void {
    if (this.#gone !== undefined) return;
    this.#watch.stop();
    this.#gone = new CamemError(
      "ENGINE_GONE",
      `the engine ${formatValue(this.#last.name)} (process ${this.pid}) is gone: ${how}; \`camem status\` lists those that run`,
    );
    this.#listeners.emit({ type: "gone", error: this.#gone });
  }

  /** True for preset tags and for tags that the engine or a controller has used or defined. */
  readonly #isKnown = (tag: string): boolean => enginePolicies.has(tag) || this.#table.knows(tag);
}
