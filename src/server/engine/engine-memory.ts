import { abortable, aborted } from "../../async/abortable.ts";
import { CamemError, isUnusable } from "../../errors.ts";
import type { TagUsage } from "../../memory/usage.ts";
import { compiledCheck, mismatchText } from "../../options/validate.ts";
import { defaultTag } from "../../policy/tag-names.ts";
import type { SleepLevel, SleepSelection } from "../../policy/tag-policies.ts";
import type { WakeOptions } from "../../transition/options.ts";
import { assertFits } from "../../transition/preflight.ts";
import type { TransitionControl } from "../../transition/progress.ts";
import type { SleepReport, WakeReport } from "../../transition/reports.ts";
import { Order, type OrderedMemory } from "../../transition/wake-order.ts";
import { WakeUp } from "../../transition/wake-up.ts";
import type { ReloadContext, SleepReason } from "./controller-options.ts";
import type { ControlledAllocator, EngineTags } from "./engine-tags.ts";
import type { OwnWakeUp } from "./lease.ts";

/** A sleep in effect. It ends when all memory is awake. */
interface Sleep {
  readonly level: SleepLevel;
  readonly reason: SleepReason;
}

/** The tag that clients wake last, because its memory is large and its content is discarded. */
const cacheTag = "kv_cache";

/** True when memory has moved as asked and only a later step failed, such as giving memory back. */
export function isComplete(error: unknown): error is CamemError {
  return error instanceof CamemError && error.transitionComplete;
}

/** The tags with memory asleep. */
function asleepIn(usage: Readonly<Record<string, TagUsage>>): string[] {
  return Object.keys(usage).filter((name) => usage[name]?.state !== "awake");
}

function deeperOf(one: 1 | 2, other: 1 | 2): 1 | 2 {
  return one === 2 ? one : other;
}

type Names = readonly string[] | undefined;

/** How deep a sleep is. */
export interface SleepDepth {
  readonly level: SleepLevel;
  /** The tags to offload, instead of those that the level says. */
  readonly offloadNames?: readonly string[];
}

/**
 * The memory of one engine: which of its tags sleep at which level, and which have lost content that must be restored. After
 * every call, including one that failed, it matches the allocator's table. All tags are the engine's own names.
 */
export class EngineMemory {
  readonly #allocator: ControlledAllocator;
  readonly #tags: EngineTags;
  readonly #weightTags: readonly string[];
  #sleep: Sleep | undefined;
  /** The level of every tag with memory asleep. */
  #levels: ReadonlyMap<string, 1 | 2> = new Map();
  /** The tags with memory asleep that has no content. */
  #discarded: ReadonlySet<string> = new Set();
  readonly #awaiting = new Set<string>();
  readonly #lost = new Set<string>();

  /** @throws CamemError `STATE_CONFLICT` when memory is already asleep: what it lost is unknown */
  constructor(allocator: ControlledAllocator, tags: EngineTags, weightTags: readonly string[]) {
    this.#allocator = allocator;
    this.#tags = tags;
    this.#weightTags = weightTags;
    const asleep = asleepIn(tags.usage());
    if (asleep.length > 0)
      throw new CamemError(
        "STATE_CONFLICT",
        `memory of ${asleep.join(", ")} is asleep; wake it before creating a controller`,
      );
  }

  /** False once the allocator is closed or its engine in another process has ended. */
  get isReachable(): boolean {
    try {
      this.#tags.usage();
      return true;
    } catch (error) {
      if (isUnusable(error)) return false;
      throw error;
    }
  }

  /** The sleep in effect, of any level; undefined when everything is awake. */
  get sleeping(): Sleep | undefined {
    return this.#sleep;
  }

  get sleepingTags(): readonly string[] {
    return [...this.#levels.keys()];
  }

  /**
   * The tags that a wake-up of `names` concerns. Clients wake `weights` and `kv_cache` in two stages and know no other tags, so
   * weights bring the rest of the model: every tag whose content was kept, except the cache, and memory without a tag of its own.
   */
  wakeScope(names: Names): Names {
    if (!names?.some((name) => this.#weightTags.includes(name))) return names;
    const planned = this.#tags.named(this.#allocator.plan("wake", { tags: this.#tags.tagsOf(undefined) }));
    const rest = Object.entries(planned.tags).flatMap(([name, { restoreBytes }]) => {
      if (this.#weightTags.includes(name) || name === cacheTag) return [];
      return restoreBytes > 0 || name === defaultTag ? [name] : [];
    });
    return [...new Set([...names, ...rest])];
  }

  /** The tags of `names`, or of all, with memory asleep. */
  asleepAmong(names: Names): string[] {
    return this.sleepingTags.filter((name) => names === undefined || names.includes(name));
  }

  /** Weights without their content, awake or asleep. */
  get awaitingTags(): readonly string[] {
    return [...this.#awaiting];
  }

  /** True when weights will have no content after everything is awake. */
  get lacksWeights(): boolean {
    return this.#awaiting.size > 0 || this.#weightTags.some((name) => this.#discarded.has(name));
  }

  /** True when the memory of all lost weights is awake, so that they can be loaded. */
  get canLoad(): boolean {
    return this.#awaiting.size > 0 && !this.#levelsHave(this.#awaiting);
  }

  /** The tags that have lost their content since the last call, except weights that were loaded again. */
  takeLost(): string[] {
    const lost = [...this.#lost];
    this.#lost.clear();
    return lost;
  }

  /** A sleep that offloads `offloadNames` and discards the rest of `names`: level 2 where it discards weights. */
  depthOf(offloadNames: readonly string[], names: Names): SleepDepth {
    const usage = this.#tags.usage();
    const weights = this.#weightTags.filter((name) => Object.hasOwn(usage, name));
    const discards = weights.some(
      (name) => (names === undefined || names.includes(name)) && !offloadNames.includes(name),
    );
    return { level: discards ? 2 : 1, offloadNames };
  }

  /** The arguments of the allocator for a sleep. */
  #selection({ level, offloadNames }: SleepDepth, names: Names): SleepSelection {
    const tags = this.#tags.tagsOf(names);
    return offloadNames === undefined
      ? { level, tags }
      : { offloadTags: this.#tags.tagsOf(offloadNames), tags };
  }

  /**
   * Checks a sleep before any request is disturbed. Returns true when there is nothing to do.
   *
   * @throws CamemError `STATE_CONFLICT`, `HOST_BUDGET_EXCEEDED`, and as the allocator's `plan`
   */
  prepareSleep(depth: SleepDepth, names: Names, reason: SleepReason): boolean {
    const { level, offloadNames } = depth;
    if (offloadNames !== undefined)
      this.#assertNotDeeper(offloadNames.filter((name) => names === undefined || names.includes(name)));
    else if (level === 1) this.#assertNotDeeper(names);
    if (level > 0) {
      const plan = this.#allocator.plan("sleep", this.#selection(depth, names));
      assertFits(plan);
      if (Object.keys(plan.tags).length > 0) return false;
    }
    if (this.#sleep === undefined || this.#sleep.level < Math.min(level, 1)) return false;
    this.#record(level, names, reason);
    return true;
  }

  /** @throws CamemError as the allocator's `sleep` */
  async sleep(
    depth: SleepDepth,
    names: Names,
    reason: SleepReason,
    control: TransitionControl,
  ): Promise<SleepReport | null> {
    const { level } = depth;
    try {
      const selection = this.#selection(depth, names);
      const report = level === 0 ? null : await this.#allocator.sleep({ ...selection, ...control });
      this.#record(level, names, reason);
      return report;
    } catch (error) {
      if (isComplete(error)) this.#record(level, names, reason);
      else this.#observe(level, reason);
      throw error;
    }
  }

  /** Ends a sleep that moved no memory, such as one of level 0. Returns false when there is none. */
  endEmptySleep(): boolean {
    if (this.#sleep === undefined || this.#levels.size > 0) return false;
    this.#sleep = undefined;
    return true;
  }

  /** True when requests can be served after a wake-up of `names`. */
  #isEnough(names: Names): boolean {
    return !this.lacksWeights && this.asleepAmong(names).length === this.#levels.size;
  }

  /**
   * Wakes the tags of `names` that are asleep. Returns null when none is. Where requests can be served afterwards, memory comes
   * back in the order of `ordered`, which is given the wake-up.
   *
   * @throws CamemError as the allocator's `wakeUp`
   */
  async wake(names: Names, control: TransitionControl, ordered?: OrderedWake): Promise<WakeReport | null> {
    const concerned = this.asleepAmong(names);
    if (concerned.length === 0) return null;
    const tags = this.#tags.tagsOf(concerned);
    const planned = this.#tags.named(this.#allocator.plan("wake", { tags })).tags;
    const emptied = concerned.filter((name) => (planned[name]?.remapBytes ?? 0) > 0);
    try {
      if (ordered === undefined || !this.#isEnough(names))
        return await this.#allocator.wakeUp({ tags, ...control });
      // The order may name memory that is awake.
      const all = this.#tags.tagsOf(undefined);
      const wake = this.#allocator.wakeUp({ tags: all, ...control, order: this.#orderOf(ordered) });
      if (wake instanceof WakeUp) ordered.begun(wake, this.#ownWakeUp(wake));
      return await wake;
    } finally {
      this.#observe(1, "operator");
      if (this.#levels.size === 0) this.#sleep = undefined;
      this.#noteLost(emptied.filter((name) => !this.#levels.has(name)));
    }
  }

  /** @throws CamemError `HOOK_FAILED` when the function threw that returns the order */
  #orderOf({ order }: OrderedWake): "loaded" | readonly OrderedMemory[] {
    let wanted: "loaded" | readonly OrderedMemory[];
    try {
      wanted = order();
    } catch (cause) {
      throw new CamemError("HOOK_FAILED", "order threw; nothing has changed", { cause });
    }
    if (!compiledCheck(Order)(wanted))
      throw new CamemError("INVALID_ARGUMENT", mismatchText("what order returned", wanted, Order), {
        property: "order",
      });
    return Array.isArray(wanted) ? wanted.map((memory) => this.#tags.memoryOf(memory)) : wanted;
  }

  #ownWakeUp(wake: WakeUp): OwnWakeUp {
    return {
      ready: async (memory) => wake.ready(this.#tags.memoryOf(memory)),
      streamWait: async (stream, memory) => wake.streamWait(stream, this.#tags.memoryOf(memory)),
    };
  }

  /**
   * Loads lost weights. If that fails, memory that was asleep in `before` goes back to sleep.
   *
   * @throws CamemError `HOOK_FAILED`, or the reason of `signal`
   */
  async load(
    reload: (context: ReloadContext) => unknown,
    before: EngineMemorySnapshot,
    signal: AbortSignal,
    modelPath?: string,
  ): Promise<void> {
    try {
      const run = async () => reload({ tags: this.awaitingTags, signal, modelPath });
      await abortable(run(), signal);
    } catch (cause) {
      const failures = await this.#sleepAgain(before);
      if (signal.aborted && failures.length === 0) throw aborted(signal);
      throw new CamemError(
        "HOOK_FAILED",
        "reload threw; no request is admitted until the weights are loaded",
        { cause: failures.length === 0 ? cause : new AggregateError([cause, ...failures]) },
      );
    }
    this.#markLoaded();
  }

  /** @throws CamemError `STATE_CONFLICT` */
  assertWeightsAwake(): void {
    const asleep = this.#weightTags.filter((name) => this.#levels.has(name));
    if (asleep.length === 0) return;
    throw new CamemError(
      "STATE_CONFLICT",
      `${asleep.join(", ")}: asleep, so nothing can be loaded into it; wake it first`,
    );
  }

  /**
   * Loads all weights, which are awake. From its begin to its success they count as lost.
   *
   * @throws CamemError `HOOK_FAILED`, or the reason of `signal`
   */
  async loadAnew(
    reload: (context: ReloadContext) => unknown,
    modelPath: string | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const usage = this.#tags.usage();
    for (const name of this.#weightTags) if (Object.hasOwn(usage, name)) this.#awaiting.add(name);
    await this.load(reload, this.snapshot(), signal, modelPath);
  }

  /**
   * Records that the caller has loaded the lost weights.
   *
   * @throws CamemError `STATE_CONFLICT` while their memory is asleep
   */
  confirm(): void {
    const asleep = this.#weightTags.filter(
      (name) => this.#discarded.has(name) || (this.#awaiting.has(name) && this.#levels.has(name)),
    );
    if (asleep.length > 0)
      throw new CamemError(
        "STATE_CONFLICT",
        `${asleep.join(", ")}: asleep without content, so it cannot have been loaded; wake it first`,
      );
    this.#markLoaded();
  }

  /** The state that a failed {@link load} restores. */
  snapshot(): EngineMemorySnapshot {
    return { levels: this.#levels, discarded: this.#discarded, sleep: this.#sleep };
  }

  #markLoaded(): void {
    for (const name of this.#awaiting) this.#lost.delete(name);
    this.#awaiting.clear();
  }

  /** Level 1 may keep weights that level 2 has discarded. */
  #assertNotDeeper(names: Names): void {
    const gone = this.#weightTags.filter(
      (name) =>
        this.#levels.get(name) === 2 &&
        this.#discarded.has(name) &&
        (names === undefined || names.includes(name)),
    );
    if (gone.length === 0) return;
    throw new CamemError(
      "STATE_CONFLICT",
      `${gone.join(", ")}: asleep at level 2, which dropped the content that level 1 must keep; wake it and load it first, or stay at level 2`,
    );
  }

  /**
   * Records a completed sleep. An operator's sleep stays an operator's when somebody else deepens it, and a lighter sleep leaves a
   * deeper one as it is.
   */
  #record(level: SleepLevel, names: Names, reason: SleepReason): void {
    this.#observe(level, reason);
    if (level !== 0)
      this.#levels = new Map(
        [...this.#levels].map(([name, before]) => [
          name,
          names === undefined || names.includes(name) ? deeperOf(before, level) : before,
        ]),
      );
    const recorded = this.#sleep?.reason === "operator" ? "operator" : reason;
    this.#sleep = { level: this.#levelAsleep() ?? level, reason: recorded };
  }

  /** Reads the allocator's table. Memory that is asleep unexpectedly counts as asleep at `level`. */
  #observe(level: SleepLevel, reason: SleepReason): void {
    const fallback = level === 2 ? 2 : 1;
    const usage = this.#tags.usage();
    this.#levels = new Map(asleepIn(usage).map((name) => [name, this.#levels.get(name) ?? fallback]));
    this.#discarded = new Set(this.sleepingTags.filter((name) => (usage[name]?.discardedBytes ?? 0) > 0));
    const asleep = this.#levelAsleep();
    if (asleep !== undefined) this.#sleep = { level: asleep, reason: this.#sleep?.reason ?? reason };
  }

  /** The level that the weights sleep at; when none do, the deepest level of the others. */
  #levelAsleep(): 1 | 2 | undefined {
    const weights = [...this.#levels].filter(([name]) => this.#weightTags.includes(name));
    const levels = (weights.length > 0 ? weights : [...this.#levels]).map(([, level]) => level);
    if (levels.length === 0) return undefined;
    return levels.includes(2) ? 2 : 1;
  }

  #levelsHave(names: Iterable<string>): boolean {
    return [...names].some((name) => this.#levels.has(name));
  }

  #noteLost(names: readonly string[]): void {
    for (const name of names) {
      this.#lost.add(name);
      if (this.#weightTags.includes(name)) this.#awaiting.add(name);
    }
  }

  /** Returns the failures; memory concerned by one stays awake without its content. */
  async #sleepAgain({ levels, discarded, sleep }: EngineMemorySnapshot): Promise<unknown[]> {
    const failures: unknown[] = [];
    for (const level of [1, 2] as const) {
      const names = [...levels.keys()].filter(
        (name) => levels.get(name) === level && !this.#levels.has(name),
      );
      if (names.length === 0) continue;
      const offloadNames = names.filter((name) => !discarded.has(name));
      await this.sleep({ level, offloadNames }, names, sleep?.reason ?? "operator", {}).catch((error) => {
        if (!isComplete(error)) failures.push(error);
      });
    }
    return failures;
  }
}

/** The order of a wake-up, and who follows it. */
export interface OrderedWake {
  readonly order: () => NonNullable<WakeOptions["order"]>;
  readonly begun: (wake: WakeUp, own: OwnWakeUp) => void;
}

/** Which tags slept at which level, which of them without content, and who asked for the sleep. */
interface EngineMemorySnapshot {
  readonly levels: ReadonlyMap<string, 1 | 2>;
  readonly discarded: ReadonlySet<string>;
  readonly sleep: Sleep | undefined;
}
