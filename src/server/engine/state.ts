import { CamemError, isUnusable } from "../../errors.ts";
import type { SleepReason } from "./controller-options.ts";
import type { EngineMemory } from "./engine-memory.ts";
import { type EngineState, type FailureSummary, summaryOf } from "./events.ts";

/** Derives the state of an engine from its memory, its pause, its failure and the transition in progress. */
export class EngineStateTracker {
  paused = false;
  #isClosed = false;
  readonly #memory: EngineMemory;
  #moving: "falling-asleep" | "waking" | "awaiting-weights" | undefined;
  #sleepInProgress: SleepReason | undefined;
  #failure: FailureSummary | undefined;
  /** The failure is that the memory could not be reached. */
  #wasUnreachable = false;

  constructor(memory: EngineMemory) {
    this.#memory = memory;
  }

  get current(): EngineState {
    if (this.#moving) return this.#moving;
    if (this.#isClosed) return "closed";
    if (this.#failure) return "failed";
    const { sleeping, awaitingTags } = this.#memory;
    if (sleeping && sleeping.level > 0) return "asleep";
    if (this.isPaused) return "paused";
    return awaitingTags.length > 0 ? "awaiting-weights" : "awake";
  }

  /** True after `pause()`, and after a sleep of level 0. */
  get isPaused(): boolean {
    return this.paused || this.#memory.sleeping?.level === 0;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** True during a transition. */
  get isMoving(): boolean {
    return this.#moving !== undefined;
  }

  /** Who asked for the sleep in progress, or for the one in effect. */
  get sleepReason(): SleepReason | undefined {
    return this.#sleepInProgress ?? this.#memory.sleeping?.reason;
  }

  get failure(): FailureSummary | undefined {
    return this.#failure;
  }

  beginSleep(reason: SleepReason): void {
    this.#sleepInProgress = reason;
    this.#moving = "falling-asleep";
  }

  beginWakeUp(): void {
    this.#moving = "waking";
  }

  beginReload(): void {
    this.#moving = "awaiting-weights";
  }

  endTransition(): void {
    this.#moving = undefined;
    this.#sleepInProgress = undefined;
  }

  /** Records a failure that outlasts its transition: the device is lost, or the allocator is closed or its engine gone. */
  noteFailure(error: unknown): void {
    if (this.#isClosed || !(error instanceof CamemError)) return;
    const isUnreachable = isUnusable(error) && !this.#memory.isReachable;
    if (error.code !== "DEVICE_LOST" && !isUnreachable) return;
    this.#failure = summaryOf(error);
    this.#wasUnreachable = isUnreachable;
  }

  /** A call has succeeded that moved nothing: an engine that was gone may have a successor. */
  noteReached(): void {
    if (this.#wasUnreachable && this.#memory.isReachable) this.clearFailure();
  }

  close(): void {
    this.#isClosed = true;
  }

  clearFailure(): void {
    this.#failure = undefined;
    this.#wasUnreachable = false;
  }
}
