import { Listeners } from "../../async/listeners.ts";
import { CamemError, type CamemErrorCode, messageOf } from "../../errors.ts";
import type { SleepLevel } from "../../policy/tag-policies.ts";
import type { TransitionProgress } from "../../transition/progress.ts";
import type { SleepReport, WakeReport } from "../../transition/reports.ts";
import type { SleepReason } from "./controller-options.ts";

/**
 * The state of an engine.
 *
 * - `awake`: requests are admitted, in this state only.
 * - `paused`: memory is awake, but requests wait: after `pause()`, or after `sleep({ level: 0 })`.
 * - `falling-asleep`: requests in flight are ending or being parked, or memory is moving.
 * - `asleep`: some memory is asleep, also after a wake-up of some tags only.
 * - `waking`: memory is moving back.
 * - `awaiting-weights`: memory is awake, but the content of weights is lost until they are loaded.
 * - `failed`: the device is lost or the allocator is closed; a successful transition ends this state.
 * - `closed`: the controller is closed, and its calls reject; memory stays as it is.
 */
export type EngineState =
  | "awake"
  | "paused"
  | "falling-asleep"
  | "asleep"
  | "waking"
  | "awaiting-weights"
  | "failed"
  | "closed";

/** How many requests an engine has, now and since its controller was made. */
export interface RequestCounts {
  /** Admitted and neither parked nor released. */
  readonly running: number;
  /** Admitted and parked at a checkpoint. */
  readonly parked: number;
  /** Held until the engine is awake. */
  readonly waiting: number;
  /** Admitted since the controller was made. */
  readonly admittedTotal: number;
  /** Refused since then, including requests whose deadline passed while they were held. */
  readonly refusedTotal: number;
  /** Aborted since then. */
  readonly abortedTotal: number;
}

/** A failure as events and HTTP answers carry it. */
export interface FailureSummary {
  /** The code of the `CamemError`; `UNKNOWN` for any other error. */
  readonly code: CamemErrorCode | "UNKNOWN";
  /** The message of the error. */
  readonly message: string;
}

/** The status of an engine at one moment, as plain data for JSON. */
export interface EngineStatus {
  /** The name of the engine. */
  readonly engine: string;
  /** The state now. */
  readonly state: EngineState;
  /** When the state began, in milliseconds since 1970. */
  readonly sinceMs: number;
  /** The level of the sleep, while memory of any tag is asleep or after `sleep({ level: 0 })`; else null. */
  readonly level: SleepLevel | null;
  /** Who asked for that sleep; null without one. */
  readonly reason: SleepReason | null;
  /** The tags with memory asleep, by the engine's own names. */
  readonly sleepingTags: readonly string[];
  /** The weights that must be loaded before a request is admitted, by the engine's own names. */
  readonly awaitingTags: readonly string[];
  /** True from `pause()` to `resume()`, whether memory sleeps or not. */
  readonly paused: boolean;
  /** Its requests. */
  readonly requests: RequestCounts;
  /** Why the state is `failed`; null in every other state. */
  readonly failure: FailureSummary | null;
}

/** The transition that an event belongs to. */
export interface TransitionIdentity {
  /** Counts from 1 in each controller. */
  readonly id: number;
  /** What moves memory. */
  readonly operation: "sleep" | "wake";
  /** The requested level; null for a wake-up. */
  readonly level: SleepLevel | null;
  /** The requested tags, by the engine's own names; null for all of the engine's. */
  readonly tags: readonly string[] | null;
  /** Who asked for the transition. */
  readonly reason: SleepReason | "request";
}

interface EventBase {
  /** The name of the engine. */
  readonly engine: string;
  /** Milliseconds since 1970. */
  readonly atMs: number;
}

/** The state, the pause, the level or the sleeping tags have changed. */
export interface StateEvent extends EventBase {
  /** Tells events apart. */
  readonly type: "state";
  /** The state before. */
  readonly previous: EngineState;
  /** The status now. */
  readonly status: EngineStatus;
}

/** A sleep or wake-up has begun: first requests in flight end or park, then memory moves. */
export interface TransitionStartedEvent extends EventBase, TransitionIdentity {
  /** Tells events apart. */
  readonly type: "transition-started";
}

/** Memory is moving. */
export interface TransitionProgressEvent extends EventBase, TransitionIdentity {
  /** Tells events apart. */
  readonly type: "transition-progress";
  /** How far it is. */
  readonly progress: TransitionProgress;
}

/** A sleep or wake-up has ended. Exactly one follows each `transition-started`. */
export interface TransitionEndedEvent extends EventBase, TransitionIdentity {
  /** Tells events apart. */
  readonly type: "transition-ended";
  /** `no-op`: there was nothing to do. `failed`: see `failure`; nothing has changed unless its message says so. */
  readonly outcome: "done" | "no-op" | "failed";
  /** Since `transition-started`, including the wait for requests in flight and the reload of weights. */
  readonly durationMs: number;
  /** What the allocator did; null when it failed or was not called, as at level 0. */
  readonly report: SleepReport | WakeReport | null;
  /** Why it failed; null unless it failed. */
  readonly failure: FailureSummary | null;
}

/** The counts of requests have changed. */
export interface RequestsEvent extends EventBase {
  /** Tells events apart. */
  readonly type: "requests";
  /** The counts now. */
  readonly requests: RequestCounts;
}

/** An event of a controller. */
export type EngineEvent =
  | StateEvent
  | TransitionStartedEvent
  | TransitionProgressEvent
  | TransitionEndedEvent
  | RequestsEvent;

/**
 * Called on the event loop, in the order of events, and not awaited. What it throws, or rejects with, becomes a process warning.
 */
export type EngineListener = (event: EngineEvent) => unknown;

/** The listeners of one engine's events. */
export class EngineListeners extends Listeners<EngineEvent> {
  constructor() {
    super("camem/server");
  }
}

/** @internal */
export function summaryOf(error: unknown): FailureSummary {
  if (error instanceof CamemError) return { code: error.code, message: error.message };
  return { code: "UNKNOWN", message: messageOf(error) };
}
