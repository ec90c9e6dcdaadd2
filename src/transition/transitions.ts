/** Sleeps, wake-ups and preparations: queued, planned, checked, run by the shim and reported. */

import { existsSync, statfsSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { aborted } from "../async/abortable.ts";
import { SerialQueue } from "../async/serial-queue.ts";
import { sleep } from "../async/sleep.ts";
import { CamemError, formatValue } from "../errors.ts";
import type * as native from "../ffi/index.ts";
import { type HostBudget, HostBudgets } from "../memory/host-budget.ts";
import type { SegmentTable, TableSummary } from "../memory/table.ts";
import { type HostUsage, hostUsage, preparedBytes } from "../memory/usage.ts";
import type { Config } from "../options/allocator-options.ts";
import {
  type SleepSelection,
  type TagPolicies,
  type TreatmentOf,
  treatmentOf,
} from "../policy/tag-policies.ts";
import { Hooks } from "./hooks.ts";
import {
  checkKnownTag,
  checkSleepOptions,
  checkWakeOptions,
  type IsKnownTag,
  type SleepOptions,
  type WakeOptions,
  type WakeSelection,
} from "./options.ts";
import { type HostNeed, hostMemoryRemedy } from "./page-locking.ts";
import {
  backupBytesNeeded,
  lostTagsOf,
  planLeftovers,
  planSleep,
  planWake,
  type Step,
  spillBeyond,
  tagsOf,
} from "./plan.ts";
import { assertFits, assess, backupBytesHeld, hostBytesLeft, type TransitionPlan } from "./preflight.ts";
import { follow, type Operation, type PlanResult, type TransitionControl } from "./progress.ts";
import {
  type Executed,
  type PrepareReport,
  type SleepReport,
  sleepReport,
  type WakeReport,
  wakeReport,
} from "./reports.ts";
import { HostRetention } from "./retention.ts";
import { UnknownTags } from "./unknown-tags.ts";
import { WakeOrder } from "./wake-order.ts";

const nothingDone: PlanResult = {
  durations: {
    totalMs: 0,
    waitingMs: 0,
    preparingMs: 0,
    mappingMs: 0,
    copyingMs: 0,
    verifyingMs: 0,
    releasingMs: 0,
  },
  pageableBytes: 0,
  spilledBytes: 0,
};

/** How often the shim may refuse one unchanged plan as stale: a race resolves itself long before. */
const stalePlanLimit = 100;

const plainOptions: native.PlanOptions = { verify: false, pageable: false, spill: false };

/** The steps of a transition, and the table that they were planned for. */
interface Planned extends TableSummary {
  readonly steps: readonly Step[];
  /** As it was when the steps were planned. */
  readonly hostBudget: HostBudget;
}

/** The memory that `beforeSleep` hooks know about: segments of these tags up to this id. */
interface HookScope {
  readonly tags: ReadonlySet<string>;
  readonly lastSegmentId: number;
}

interface Signalled {
  readonly signal: AbortSignal;
}

/** Who ends a transition, and who follows it. */
interface Control extends Pick<TransitionControl, "onProgress">, Signalled {
  readonly order?: WakeOrder;
}

/** Zero where the folder is gone, so that only a sleep that spills fails. */
function freeDiskBytes(folder: string | null): number | undefined {
  if (folder === null) return undefined;
  if (!existsSync(folder)) return 0;
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}

/** Submits a plan, in one step with following it, so that no abort falls between the two. */
type Submit = () => number | native.Refusal | "nothing";

/** From this size on, what reads the whole table has a turn of the event loop of its own. */
const largeTableSegments = 1000;

/**
 * Lets the event loop run other tasks where the table is large.
 *
 * @throws CamemError `ABORTED` where the signal aborts meanwhile
 */
async function restAfter({ groups }: Planned, { signal }: Signalled): Promise<void> {
  const segments = groups.reduce((sum, group) => sum + group.segments, 0);
  if (segments < largeTableSegments) return;
  await setImmediate();
  if (signal.aborted) throw aborted(signal);
}

function isComplete(error: unknown): error is CamemError {
  return error instanceof CamemError && error.transitionComplete;
}

export class Transitions {
  readonly hooks: Hooks;
  readonly #native: native.Native;
  readonly #config: Config;
  readonly #table: SegmentTable;
  readonly #policies: TagPolicies;
  readonly #isKnownTag: IsKnownTag;
  readonly #queue = new SerialQueue();
  readonly #retention: HostRetention;
  readonly #unknownTags: UnknownTags;
  readonly #hostBudgets: HostBudgets;

  constructor(
    shim: native.Native,
    config: Config,
    table: SegmentTable,
    policies: TagPolicies,
    isKnownTag: IsKnownTag,
    hostBudgets = new HostBudgets(shim, config.hostBudgetBytes),
  ) {
    this.#native = shim;
    this.hooks = new Hooks(this.#queue.ending);
    this.#config = config;
    this.#table = table;
    this.#policies = policies;
    this.#hostBudgets = hostBudgets;
    this.#isKnownTag = isKnownTag;
    this.#unknownTags = new UnknownTags(config.unknownTags);
    this.#retention = new HostRetention(shim, config, () => this.#giveBackRetained());
  }

  async sleep(options: SleepOptions): Promise<SleepReport> {
    checkSleepOptions(options, this.#isKnownTag);
    this.hooks.assertOutside();
    return this.#queue.run(options.signal, (signal) => this.#sleepNow({ ...options, signal }));
  }

  /** @param order serves those who wait for a part of the memory */
  async wakeUp(
    options: WakeOptions,
    order = new WakeOrder(this.#native, this.#table, (tag) => checkKnownTag(tag, this.#isKnownTag)),
  ): Promise<WakeReport> {
    checkWakeOptions(options, this.#isKnownTag);
    if (options.order !== undefined && this.#native.submitOrderedPlan === undefined)
      throw new CamemError("INVALID_ARGUMENT", "an engine in another process wakes up in no order", {
        property: "order",
      });
    this.hooks.assertOutside();
    order.ask(options.order, options.tags);
    return this.#queue.run(options.signal, (signal) => this.#wakeNow({ ...options, signal, order }));
  }

  async prepare(options: SleepOptions): Promise<PrepareReport> {
    checkSleepOptions(options, this.#isKnownTag, "prepare");
    this.hooks.assertOutside();
    return this.#queue.run(options.signal, (signal) => this.#prepareNow({ ...options, signal }));
  }

  /** Plans a sleep or wake-up without running it. */
  plan(operation: "sleep" | "wake", options: SleepSelection): TransitionPlan {
    if (operation === "sleep") {
      checkSleepOptions(options, this.#isKnownTag);
      return this.#assess(this.#withBudget(this.#planSleep(this.#treatmentOf(options))));
    }
    if (operation === "wake") {
      checkWakeOptions(options, this.#isKnownTag);
      return this.#assess(this.#withBudget(this.#planWake(options)));
    }
    throw new CamemError(
      "INVALID_ARGUMENT",
      `the operation is ${formatValue(operation)}; it must be "sleep" or "wake"`,
    );
  }

  hostUsage(): HostUsage {
    return hostUsage(this.#native, this.#hostBudgets);
  }

  /** Cancels the running transition and refuses waiting ones with `reason`; resolves when the running one has ended. */
  async end(reason: CamemError): Promise<void> {
    this.#retention.stop();
    await this.#queue.end(reason);
  }

  async #sleepNow(options: SleepOptions & Signalled): Promise<SleepReport> {
    const treatment = this.#treatmentOf(options);
    const executed = this.hooks.isEmpty
      ? await this.#run("sleep", () => this.#planSleep(treatment), options)
      : await this.#sleepWithHooks(treatment, options);
    this.#unknownTags.warnOnce(executed.steps, treatment);
    return sleepReport(options, treatment, executed, this.#table);
  }

  async #sleepWithHooks(treatment: TreatmentOf, options: SleepOptions & Signalled): Promise<Executed> {
    const planned = this.#planSleep(treatment);
    if (planned.steps.length === 0) return { steps: [], ...nothingDone };
    await restAfter(planned, options);
    assertFits(this.#assess(planned));
    const tags = tagsOf(planned.steps.map((step) => step.group));
    await this.hooks.beforeSleep(tags, options.signal);
    // Memory that a hook or a native thread has allocated since is out of scope and stays awake.
    const scope = { tags: new Set(tags), lastSegmentId: planned.lastSegmentId };
    try {
      return await this.#run("sleep", () => this.#planSleep(treatment, scope), options);
    } catch (error) {
      // `afterWake` must rebuild what `beforeSleep` dropped, unless the memory is asleep despite the error.
      if (!isComplete(error)) await this.#afterFailedSleep(scope, error);
      throw error;
    }
  }

  async #afterFailedSleep(scope: HookScope, failure: unknown): Promise<void> {
    const { groups } = this.#table.summary(scope.lastSegmentId);
    const awake = groups.filter(({ tag, state }) => state === "mapped" && scope.tags.has(tag));
    const tags = tagsOf(awake);
    if (tags.length > 0) await this.hooks.afterWake({ tags, lostTags: [], reason: "sleepFailed" }, failure);
  }

  async #wakeNow(options: WakeSelection & Control): Promise<WakeReport> {
    const selection = this.hooks.hasBeforeWake ? await this.#beforeWake(options) : options;
    // The last plan is the one that ran.
    let steps: readonly Step[] = [];
    const plan = () => {
      const planned = this.#planWake(selection);
      steps = planned.steps;
      return planned;
    };
    const executed = await this.#run("wake-up", plan, options).catch(async (error) => {
      if (isComplete(error)) await this.#afterWake(steps, error);
      throw error;
    });
    await this.#afterWake(steps);
    return wakeReport(executed, this.#table);
  }

  /** Runs `beforeWake` hooks where there is memory to wake. Returns what to wake: the tags that the hooks know about. */
  async #beforeWake({ zero, ...options }: WakeSelection & Signalled): Promise<WakeSelection> {
    const planned = this.#planWake(options);
    const tags = tagsOf(planned.steps.map((step) => step.group));
    if (tags.length === 0) return { ...options, zero };
    await restAfter(planned, options);
    const { devices } = this.#assess(planned);
    await this.hooks.beforeWake({ tags, devices }, options.signal);
    return { tags, zero };
  }

  async #afterWake(steps: readonly Step[], failure?: unknown): Promise<void> {
    const tags = tagsOf(steps.map((step) => step.group));
    if (tags.length > 0)
      await this.hooks.afterWake({ tags, lostTags: lostTagsOf(steps), reason: "wake" }, failure);
  }

  async #prepareNow(options: SleepOptions & Signalled): Promise<PrepareReport> {
    const planned = this.#planSleep(this.#treatmentOf(options));
    assertFits(this.#assess(planned));
    const device = planned.steps[0]?.group.device ?? this.#config.device;
    const bytes = this.#hostBytesNeeded(planned.steps);
    const submit = () => this.#native.submitPreparation(device, bytes, this.#planOptions);
    const { durations } = await this.#submit(
      "preparation",
      async () => submit,
      options,
      () => bytes,
    );
    return { preparedBytes: preparedBytes(this.#native), durations };
  }

  /** What plans may do where AscendCL refuses to page-lock, and whether they verify. */
  get #planOptions(): native.PlanOptions {
    const { verify, pageable, spillDir } = this.#config;
    return { verify, pageable, spill: spillDir !== null };
  }

  /** Host memory that these steps take for new backups and staging. */
  #hostBytesNeeded(steps: readonly Step[]): number {
    return backupBytesNeeded(steps).hostBytes + this.#stagingBytes(steps);
  }

  /** Page-locked memory that these steps, or their undoing, use to move content to or from files. */
  #stagingBytes(steps: readonly Step[]): number {
    const devices = new Set<number>();
    for (const { spilledSegments, group } of steps)
      if (spilledSegments > 0 || group.fileBytes > 0) devices.add(group.device);
    return devices.size * this.#native.hostInfo().stagingBytes;
  }

  #treatmentOf(selection: SleepSelection): TreatmentOf {
    return treatmentOf(selection, this.#policies.snapshot(), this.#config.unknownTags);
  }

  #planSleep(treatment: TreatmentOf, scope?: HookScope): Planned {
    const whole = this.#table.summary();
    const hasNewer = scope !== undefined && whole.lastSegmentId > scope.lastSegmentId;
    const table = hasNewer ? this.#table.summary(scope.lastSegmentId) : whole;
    const all = planSleep(table.groups, treatment);
    const steps = scope === undefined ? all : all.filter(({ group }) => scope.tags.has(group.tag));
    this.#unknownTags.assertAccepted(steps, treatment);
    // Newer segments stay awake, but their backups count: another Worker may have put them to sleep while a hook ran.
    const { groups } = whole;
    const budget = this.#hostBudgets.for(backupBytesNeeded(steps).hostBytes, backupBytesHeld(groups));
    const spills = this.#config.spillDir !== null;
    const placed = spills ? spillBeyond(steps, hostBytesLeft(groups, budget)) : steps;
    return { ...table, groups, steps: placed, hostBudget: budget };
  }

  #planWake({ tags, zero }: WakeSelection): Planned {
    const table = this.#table.summary();
    const policies = this.#policies.snapshot();
    const steps = planWake(table.groups, tags, (tag, id) => policies.get(tag, id), zero);
    return { ...table, steps, hostBudget: this.#hostBudgets.for(0, backupBytesHeld(table.groups)) };
  }

  /** The plan with the budget of this moment, also where the plan does not depend on it. */
  #withBudget(planned: Planned): Planned {
    return { ...planned, hostBudget: this.#hostBudgets.now(backupBytesHeld(planned.groups)) };
  }

  /** Plans, checks and executes; plans again when another Worker or a native thread changes the table meanwhile. */
  async #run(operation: Operation, plan: () => Planned, control: Control): Promise<Executed> {
    let steps: readonly Step[] = [];
    let stale = { plan: "", count: 0 };
    let first = await this.#retryLeftovers(operation, plan(), control);
    const submitPlan = (planned: Planned) => {
      const ticket = this.#submitSteps(planned, control.order?.places());
      if (ticket === "stale") {
        const refusedPlan = JSON.stringify({ ...planned, hostBudget: undefined });
        stale = { plan: refusedPlan, count: refusedPlan === stale.plan ? stale.count + 1 : 1 };
        if (stale.count > stalePlanLimit)
          throw new TypeError("libcamem.so refuses a plan that fits: a bug of camem's");
      }
      return ticket;
    };
    const makeReady = async () => {
      const planned = first ?? plan();
      first = undefined;
      steps = planned.steps;
      if (steps.length === 0) return this.#giveBackLeftovers(planned);
      await restAfter(planned, control);
      if (this.#mustWait(planned)) return "busy";
      await restAfter(planned, control);
      return () => submitPlan(planned);
    };
    const result = await this.#submit(operation, makeReady, control, () => this.#hostBytesNeeded(steps));
    return { steps, ...result };
  }

  #submitSteps(planned: Planned, order: native.PlanOrder | undefined): number | native.Refusal {
    const shim = this.#native;
    if (order === undefined || shim.submitOrderedPlan === undefined)
      return shim.submitPlan(planned.steps, planned, this.#planOptions);
    return shim.submitOrderedPlan(planned.steps, planned, this.#planOptions, order);
  }

  /** Frees what earlier transitions of other tags could not free. Returns the plan if it still holds afterwards. */
  async #retryLeftovers(
    operation: Operation,
    planned: Planned,
    { signal }: Signalled,
  ): Promise<Planned | undefined> {
    const leftovers = planLeftovers(planned.groups, planned.steps);
    if (leftovers.length === 0) return planned;
    const submit = () => {
      const ticket = this.#native.submitPlan(leftovers, planned, plainOptions);
      return ticket === "stale" ? "nothing" : ticket;
    };
    try {
      await this.#submit(
        operation,
        async () => submit,
        { signal },
        () => 0,
      );
    } catch (error) {
      // What cannot be freed still counts as held, so the plan itself decides whether there is room.
      if (signal.aborted) throw error;
    }
    return undefined;
  }

  /** Submits until the shim accepts, unless there is nothing to do, and waits for the end. */
  async #submit(
    operation: Operation,
    makeReady: () => Promise<Submit | "busy" | "nothing">,
    control: Control,
    neededBytes: () => number,
    retainBytes = this.#retention.limitBytes,
  ): Promise<PlanResult> {
    const remedyOf = (failure: native.Failure) =>
      hostMemoryRemedy(failure, this.#hostNeed(operation, neededBytes()), this.#config);
    while (true) {
      if (control.signal.aborted) throw aborted(control.signal);
      // Workers may have different limits: the one that moves memory decides.
      this.#native.retainHost(Math.min(retainBytes, Number.MAX_SAFE_INTEGER));
      const submit = await makeReady();
      if (control.signal.aborted) throw aborted(control.signal);
      const ticket = typeof submit === "function" ? submit() : submit;
      if (ticket === "nothing") return nothingDone;
      if (typeof ticket === "number")
        return follow(this.#native, operation, ticket, control, remedyOf).finally(() => {
          if (retainBytes > 0 && !this.#queue.ending.aborted) this.#retention.restartIdleTimer();
        });
      await sleep(1);
    }
  }

  #hostNeed(operation: Operation, neededBytes: number): HostNeed {
    const { stagingBytes } = this.#native.hostInfo();
    return { operation, neededBytes, stagingBytes, lockLimit: this.#hostBudgets.lockLimit() };
  }

  /**
   * True while other plans move the memory of this one, and while memory that was freed on a busy device will make room.
   *
   * @throws CamemError as `assertFits`
   */
  #mustWait(planned: Planned): boolean {
    const awaited = new Set<number>();
    const assessed = this.#assess(planned, awaited);
    const makesRoom = assessed.devices.some(
      ({ device, neededBytes, freeBytes }) => neededBytes > freeBytes && awaited.has(device),
    );
    if (makesRoom) return true;
    assertFits(assessed);
    return planned.steps.some((step) => step.group.moving);
  }

  /** @param awaited receives the devices on which freed memory waits for its release */
  #assess({ steps, groups, hostBudget }: Planned, awaited?: Set<number>): TransitionPlan {
    return assess(steps, groups, {
      hostBudget,
      freeSpillBytes: () => freeDiskBytes(this.#config.spillDir),
      freeDeviceBytes: (device) => {
        const { freeBytes, awaitedBytes } = this.#native.memoryInfo(device);
        if (awaitedBytes > 0) awaited?.add(device);
        return freeBytes;
      },
    });
  }

  /** Page-locks what is reserved and gives back all other free host memory. */
  #submitReserved(): number | native.Refusal {
    const { reservedBytes } = this.#native.hostInfo();
    return this.#native.submitPreparation(this.#config.device, reservedBytes, plainOptions);
  }

  /** Retries what an earlier plan could not give back, although the transition itself has nothing to do. */
  #giveBackLeftovers({ groups }: Planned): Submit | "nothing" {
    return this.#retention.hasLeftovers(groups) ? () => this.#submitReserved() : "nothing";
  }

  #giveBackRetained(): void {
    const giveBack = (signal: AbortSignal) =>
      this.#submit(
        "preparation",
        async () => () => this.#submitReserved(),
        { signal },
        () => 0,
        0,
      );
    // The next transition retries a failure.
    this.#queue.run(undefined, giveBack).catch(() => undefined);
  }
}
