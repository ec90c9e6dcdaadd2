import type { Deferred } from "../../async/deferred.ts";
import type { CamemError } from "../../errors.ts";
import type { Lease } from "../engine/admission.ts";
import type { SleepController } from "../engine/controller.ts";

/** A request that waits for its engine. */
export interface QueueEntry {
  readonly wait: Deferred<Lease>;
  /** Its place among all that wait in the pool. */
  readonly arrival: number;
  readonly untilMs: number;
}

/** An engine in a pool: who waits for it, and when it was of use. */
export class PoolMember {
  readonly engine: SleepController;
  readonly queue = new Set<QueueEntry>();
  lastUsedMs: number;
  residentSinceMs: number;
  /** Requests that were refused before they reached the engine. */
  refusedTotal = 0;
  /** True while it makes room, or room is made for it: requests for it wait. */
  switching = false;

  constructor(engine: SleepController, nowMs: number) {
    this.engine = engine;
    this.lastUsedMs = nowMs;
    this.residentSinceMs = nowMs;
  }

  /** True until it is known whether it is awake or asleep. */
  get isMoving(): boolean {
    const { state } = this.engine.status;
    return this.switching || state === "falling-asleep" || state === "waking";
  }

  /** The place of who waits longest for it; undefined where nobody does. */
  get waitsSince(): number | undefined {
    for (const { wait, arrival } of this.queue) if (!wait.settled) return arrival;
    return undefined;
  }

  /** How many wait for it. */
  get waiting(): number {
    return [...this.queue].filter(({ wait }) => !wait.settled).length;
  }

  /** Orders idle members before busy ones, and by their last use. */
  static compareUse(a: PoolMember, b: PoolMember): number {
    return Number(a.#isBusy()) - Number(b.#isBusy()) || a.lastUsedMs - b.lastUsedMs;
  }

  #isBusy(): boolean {
    return this.engine.status.requests.running > 0;
  }

  /** Hands everybody that waits to the engine's own controller, which admits, holds or refuses them. */
  serve(nowMs: number): void {
    for (const entry of this.queue) {
      this.queue.delete(entry);
      if (entry.wait.settled) continue;
      const deadlineMs = Math.max(0, entry.untilMs - nowMs);
      entry.wait.resolve(this.engine.admit(entry.wait.signal, { deadlineMs }));
    }
  }

  refuse(error: CamemError): void {
    this.refusedTotal += this.waiting;
    for (const { wait } of this.queue) wait.reject(error);
    this.queue.clear();
  }

  /** Bytes of device memory that waking it lacks. */
  shortBytes(tags: readonly string[] | undefined): number {
    const { devices } = this.engine.plan("wake", { tags });
    return devices.reduce((sum, { neededBytes, freeBytes }) => sum + Math.max(0, neededBytes - freeBytes), 0);
  }

  /** Bytes of device memory that its sleep gives back. */
  sleepableBytes(level: 1 | 2): number {
    const tags = Object.values(this.engine.plan("sleep", { level }).tags);
    return tags.reduce((sum, { offloadBytes, discardBytes }) => sum + offloadBytes + discardBytes, 0);
  }
}
