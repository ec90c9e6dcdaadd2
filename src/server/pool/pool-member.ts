import type { Deferred } from "../../async/deferred.ts";
import type { CamemError } from "../../errors.ts";
import type { TransitionPlan } from "../../transition/preflight.ts";
import type { SleepController } from "../engine/controller.ts";
import type { Lease } from "../engine/lease.ts";
import { isMoving } from "./rules.ts";
import { type BytesByDevice, lessMissing, type SleepOption } from "./victims.ts";

/** A request that waits for its engine. */
interface QueueEntry {
  readonly wait: Deferred<Lease>;
  /** Its place among all requests that wait in the pool. */
  readonly arrival: number;
  /** When its deadline passes, by the pool's clock. */
  readonly untilMs: number;
}

/** A sleep of an engine, and whether its backups fit by themselves. */
export interface PlannedSleep extends SleepOption {
  readonly fits: boolean;
  /** The room for backups in host memory and in the spill folder. */
  readonly backupRoomBytes: number;
}

/** Device memory that a sleeping engine could not give back. */
export interface Leftovers {
  readonly level: 1 | 2;
  readonly tags: readonly string[];
  readonly freed: BytesByDevice;
}

/** An engine in a pool, the requests that wait for it, and its latest use. */
export class PoolMember {
  readonly engine: SleepController;
  readonly queue = new Set<QueueEntry>();
  lastUsedMs: number;
  residentSinceMs: number;
  /** Requests that were refused before they reached the engine. */
  refusedTotal = 0;
  /** True while it makes room, or others make room for it: its requests wait. */
  isSwitching = false;

  constructor(engine: SleepController, nowMs: number) {
    this.engine = engine;
    this.lastUsedMs = nowMs;
    this.residentSinceMs = nowMs;
  }

  /** True while its memory is moving, or is about to. */
  get isMoving(): boolean {
    return this.isSwitching || isMoving(this.engine.status);
  }

  /** True while it admits requests during a wake-up, whose first memory is back. */
  get servesEarly(): boolean {
    return this.engine.status.state === "waking" && this.engine.disposition === "admit";
  }

  get isBusy(): boolean {
    return this.engine.status.requests.running > 0;
  }

  /** The arrival of the request that has waited longest; undefined when none waits. */
  get firstArrival(): number | undefined {
    for (const { wait, arrival } of this.queue) if (!wait.settled) return arrival;
    return undefined;
  }

  /** The number of requests that wait. */
  get waiting(): number {
    return [...this.queue].filter(({ wait }) => !wait.settled).length;
  }

  /** Passes all requests that wait to the engine's own controller, which admits, holds or refuses them. */
  serve(nowMs: number): void {
    const entries = [...this.queue];
    // Each of them may lead to this function again.
    this.queue.clear();
    for (const entry of entries) {
      if (entry.wait.settled) continue;
      const deadlineMs = Math.max(0, entry.untilMs - nowMs);
      entry.wait.resolve(this.engine.admit(entry.wait.signal, { deadlineMs }));
    }
  }

  /** Refuses all requests that wait. */
  refuse(error: CamemError): void {
    this.refusedTotal += this.waiting;
    for (const { wait } of this.queue) wait.reject(error);
    this.queue.clear();
  }

  /** Device memory that a wake-up needs beyond the free memory; empty where the wake-up fits. */
  missing(tags: readonly string[] | undefined): BytesByDevice {
    const { devices } = this.engine.plan("wake", { tags });
    const needed = new Map(devices.map(({ device, neededBytes }) => [device, neededBytes]));
    return lessMissing(needed, new Map(devices.map(({ device, freeBytes }) => [device, freeBytes])));
  }

  /** A sleep of the whole engine. */
  plannedSleep(level: 1 | 2, isDeeper: boolean): PlannedSleep {
    const plan = this.engine.plan("sleep", { level });
    const { host, spill, fits } = plan;
    return {
      level,
      isDeeper,
      fits,
      freed: freedBy(plan),
      backupBytes: host.neededBytes + (spill?.neededBytes ?? 0),
      backupRoomBytes: (host.freeBytes ?? Number.POSITIVE_INFINITY) + (spill?.freeBytes ?? 0),
    };
  }

  /** What another sleep of the memory that is asleep gives back without dropping a backup. */
  leftovers(): Leftovers {
    const { level, sleepingTags } = this.engine.status;
    const asleepAt = level === 2 ? 2 : 1;
    const plans = Object.entries(this.engine.plan("sleep", { level: asleepAt, tags: sleepingTags }).tags);
    const tags = plans.filter(([, { discardBytes }]) => discardBytes === 0).map(([tag]) => tag);
    const freed = freedBy(this.engine.plan("sleep", { level: asleepAt, tags }));
    return { level: asleepAt, tags, freed };
  }
}

function freedBy({ freed }: TransitionPlan): BytesByDevice {
  return new Map(freed.map(({ device, freedBytes }) => [device, freedBytes]));
}
