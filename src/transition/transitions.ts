/** Sleeps, wake-ups and preparations: one after the other, planned, checked, run by the shim and reported. */

import { existsSync, statfsSync } from "node:fs";
import { aborted } from "../async/abortable.ts";
import { SerialQueue } from "../async/serial-queue.ts";
import { CamemError } from "../errors.ts";
import * as native from "../ffi/native.ts";
import type { Portion, SegmentTable, Summary } from "../memory/table.ts";
import type { Config } from "../options/config.ts";
import { type SleepLevel, type SleepSelection, type TagTreatment, treatmentOf } from "../policy/levels.ts";
import type { TagPolicy } from "../policy/tags.ts";
import { Hooks } from "./hooks.ts";
import { backupBytesNeeded, bytesOf, planSleep, planWake, type Step, spillBeyond, tagsOf } from "./plan.ts";
import { assertFits, assess, hostBytesLeft, type TransitionPlan } from "./preflight.ts";
import { follow, type Operation, type TransitionControl, type TransitionDurations } from "./progress.ts";

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

/** The steps of a transition, and the table that they were planned for. */
interface Planned extends Summary {
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

export class Transitions {
  readonly hooks: Hooks;
  readonly #config: Config;
  readonly #table: SegmentTable;
  readonly #policies: ReadonlyMap<string, TagPolicy>;
  readonly #turns = new SerialQueue();
  #idleTimer: Timer | undefined;

  constructor(config: Config, table: SegmentTable, policies: ReadonlyMap<string, TagPolicy>) {
    this.hooks = new Hooks(this.#turns.ending);
    this.#config = config;
    this.#table = table;
    this.#policies = policies;
  }

  sleep(options: SleepOptions): Promise<SleepReport> {
    return this.#turns.take(options.signal, (signal) => this.#sleepNow({ ...options, signal }));
  }

  wakeUp(options: WakeOptions): Promise<WakeReport> {
    return this.#turns.take(options.signal, (signal) => this.#wakeNow({ ...options, signal }));
  }

  prepare(options: SleepOptions): Promise<PrepareReport> {
    return this.#turns.take(options.signal, (signal) => this.#prepareNow({ ...options, signal }));
  }

  /** What such a sleep would do now. */
  sleepPlan(selection: SleepSelection): TransitionPlan {
    return this.#assess(this.#planSleep(treatmentOf(selection, this.#policies)));
  }

  /** What such a wake-up would do now. */
  wakePlan(tags: readonly string[] | undefined): TransitionPlan {
    return this.#assess(this.#planWake(tags));
  }

  /** Cancels a transition that runs and refuses those that wait, for `reason`; returns when the last has ended. */
  async end(reason: CamemError): Promise<void> {
    clearTimeout(this.#idleTimer);
    await this.#turns.end(reason);
  }

  async #sleepNow(options: SleepOptions & Control): Promise<SleepReport> {
    const treatment = treatmentOf(options, this.#policies);
    if (this.hooks.isEmpty) {
      const { steps, durations } = await this.#run("sleep", () => this.#planSleep(treatment), options);
      return this.#sleepReport(options, steps, durations);
    }
    const planned = this.#planSleep(treatment);
    if (planned.steps.length === 0) return this.#sleepReport(options, [], noDurations);
    assertFits(this.#assess(planned));
    const tags = tagsOf(planned.steps.map((step) => step.portion));
    await this.hooks.beforeSleep(tags, options.signal);
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
    const { portions } = this.#table.summary(known.lastSegmentId);
    const concerned = portions.filter((portion) => known.tags.includes(portion.tag));
    const tags = tagsOf(concerned.filter((portion) => portion.state === "mapped"));
    if (tags.length > 0) await this.hooks.afterWake({ tags, reason: "sleepFailed" }, failure);
  }

  async #wakeNow(options: WakeOptions & Control): Promise<WakeReport> {
    const plan = () => this.#planWake(options.tags);
    const tags = this.hooks.isEmpty ? [] : tagsOf(plan().steps.map((step) => step.portion));
    const { steps, durations } = await this.#run("wake-up", plan, options).catch(async (error) => {
      if (isComplete(error) && tags.length > 0) await this.hooks.afterWake({ tags, reason: "wake" }, error);
      throw error;
    });
    if (tags.length > 0) await this.hooks.afterWake({ tags, reason: "wake" });
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
    const { reservedBytes, freeBytes } = native.hostInfo();
    return { preparedBytes: Math.min(reservedBytes, freeBytes), durations };
  }

  /** Page-locked memory that these steps, or those that undo them, take while they move content to or from files. */
  #stagingBytes(steps: readonly Step[]): number {
    const devices = new Set<number>();
    for (const { spilledSegments, portion } of steps)
      if (spilledSegments > 0 || portion.fileBytes > 0) devices.add(portion.device);
    return devices.size * native.hostInfo().stagingBytes;
  }

  #planSleep(treatment: (tag: string) => TagTreatment, known?: Known): Planned {
    const table = this.#table.summary(known?.lastSegmentId);
    const all = planSleep(table.portions, treatment);
    const steps = known === undefined ? all : all.filter(({ portion }) => known.tags.includes(portion.tag));
    // What is younger stays as it is, but its backups count: another Worker may have put it to sleep while a hook ran.
    const portions = known === undefined ? table.portions : this.#table.summary().portions;
    if (this.#config.spillDir === null) return { ...table, portions, steps };
    const leftBytes = hostBytesLeft(portions, this.#config.hostBudgetBytes);
    return { ...table, portions, steps: spillBeyond(steps, leftBytes) };
  }

  #planWake(tags: readonly string[] | undefined): Planned {
    const table = this.#table.summary();
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
      const ticket = native.submitPlan(steps, planned, this.#config.verify);
      if (ticket === "stale") {
        const refusal = JSON.stringify(planned);
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
    if (!Number.isFinite(this.#config.retainIdleMs) || this.#turns.ending.aborted) return;
    const submit = () => native.submitPreparation(this.#config.device, native.hostInfo().reservedBytes);
    const giveBack = (signal: AbortSignal) => this.#submit("preparation", submit, { signal }, 0);
    this.#idleTimer = setTimeout(() => {
      // What fails is tried again by the next transition.
      this.#turns.take(undefined, giveBack).catch(() => undefined);
    }, this.#config.retainIdleMs).unref();
  }

  #sleepReport(options: SleepOptions, steps: readonly Step[], durations: TransitionDurations): SleepReport {
    const usage = this.#table.usageByTag();
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
    const asleep = this.#table.usageByTag().filter((tag) => tag.awakeSegments < tag.segments);
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
