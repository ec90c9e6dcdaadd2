import type { Deferred } from "../../async/deferred.ts";
import type { CamemError } from "../../errors.ts";
import type { SleepController } from "../engine/controller.ts";
import type { Lease } from "../engine/lease.ts";

/** A request that waits for its engine. */
interface QueueEntry {
  readonly wait: Deferred<Lease>;
  /** Its place among all requests that wait in the pool. */
  readonly arrival: number;
  /** When its deadline passes, by the pool's clock. */
  readonly untilMs: number;
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
    const { state } = this.engine.status;
    return this.isSwitching || state === "falling-asleep" || state === "waking";
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
    for (const entry of this.queue) {
      this.queue.delete(entry);
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

  /** Bytes of device memory that a wake-up needs beyond the free memory. */
  missingBytes(tags: readonly string[] | undefined): number {
    const { devices } = this.engine.plan("wake", { tags });
    return devices.reduce((sum, { neededBytes, freeBytes }) => sum + Math.max(0, neededBytes - freeBytes), 0);
  }

  /** Bytes of device memory that a sleep gives back. */
  sleepableBytes(level: 1 | 2): number {
    const tags = Object.values(this.engine.plan("sleep", { level }).tags);
    return tags.reduce((sum, { offloadBytes, discardBytes }) => sum + offloadBytes + discardBytes, 0);
  }
}
