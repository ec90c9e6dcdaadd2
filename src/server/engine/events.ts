import { CamemError, type CamemErrorCode, formatValue, messageOf } from "../../errors.ts";
import type { SleepLevel } from "../../policy/tag-policies.ts";
import type { TransitionProgress } from "../../transition/progress.ts";
import type { SleepReport, WakeReport } from "../../transition/reports.ts";

/**
 * What an engine is doing.
 *
 * - `awake`: requests are admitted. It is the only state in which they are.
 * - `paused`: memory is awake, requests wait: after `pause()`, or after `sleep({ level: 0 })`.
 * - `falling-asleep`: requests in flight are being ended or parked, or memory is moving.
 * - `asleep`: some memory is asleep, also after a wake-up of some tags only.
 * - `waking`: memory is moving back.
 * - `awaiting-weights`: memory is awake, but the content of weights is lost until they are loaded.
 * - `failed`: the device is lost or the allocator is closed; a transition that succeeds ends it.
 */
export type EngineState =
  | "awake"
  | "paused"
  | "falling-asleep"
  | "asleep"
  | "waking"
  | "awaiting-weights"
  | "failed";

/** Who asked for a sleep. Traffic undoes an operator's sleep only where that is configured. */
export type SleepReason = "operator" | "idle" | "pool";

/** What becomes of requests in flight: ended early, waited for, or parked at their next checkpoint. */
export type InFlightMode = "abort" | "wait" | "keep";

/** How many requests an engine has, now and so far. */
export interface RequestCounts {
  /** Admitted and neither parked nor released. */
  readonly running: number;
  /** Admitted and halted at a checkpoint. */
  readonly parked: number;
  /** Held until the engine is awake. */
  readonly waiting: number;
  /** Admitted since the controller was made. */
  readonly admittedTotal: number;
  /** Refused since then, those whose deadline passed while they were held included. */
  readonly refusedTotal: number;
  /** Told to end early since then. */
  readonly abortedTotal: number;
}

/** A failure in short, as events and HTTP answers carry it. */
export interface FailureSummary {
  readonly code: CamemErrorCode | "UNKNOWN";
  readonly message: string;
}

/** An engine at one moment. Plain data that can be sent as JSON. */
export interface EngineStatus {
  readonly engine: string;
  readonly state: EngineState;
  /** When the state began, in milliseconds since 1970. */
  readonly sinceMs: number;
  /** The level it sleeps at, with memory of any tag asleep or after `sleep({ level: 0 })`; else null. */
  readonly level: SleepLevel | null;
  /** Who asked for that sleep; null while none lasts. */
  readonly reason: SleepReason | null;
  /** The tags of which memory is asleep, by the engine's own names. */
  readonly sleepingTags: readonly string[];
  /** The weights that have to be loaded before a request is admitted, by the engine's own names. */
  readonly awaitingTags: readonly string[];
  /** True after `pause()` until `resume()`, whatever memory does. */
  readonly paused: boolean;
  readonly requests: RequestCounts;
  /** Why it is `failed`; null in every other state. */
  readonly failure: FailureSummary | null;
}

/** Which transition an event belongs to. */
export interface TransitionIdentity {
  /** Counts up from 1 in each controller. */
  readonly id: number;
  readonly operation: "sleep" | "wake";
  /** The level asked for; null for a wake-up. */
  readonly level: SleepLevel | null;
  /** The tags asked for, by the engine's own names; null: all of the engine's. */
  readonly tags: readonly string[] | null;
  /** Who asked for it. */
  readonly reason: SleepReason | "request";
}

interface EventBase {
  readonly engine: string;
  /** Milliseconds since 1970. */
  readonly atMs: number;
}

/** The state, the pause, the level or the tags asleep have changed. */
export interface StateEvent extends EventBase {
  readonly type: "state";
  readonly previous: EngineState;
  readonly status: EngineStatus;
}

/** A sleep or wake-up has begun: first the requests in flight are seen to, then memory moves. */
export interface TransitionStartedEvent extends EventBase, TransitionIdentity {
  readonly type: "transition-started";
}

/** Memory is moving. */
export interface TransitionProgressEvent extends EventBase, TransitionIdentity {
  readonly type: "transition-progress";
  readonly progress: TransitionProgress;
}

/** A sleep or wake-up has ended. Each `transition-started` has exactly one. */
export interface TransitionEndedEvent extends EventBase, TransitionIdentity {
  readonly type: "transition-ended";
  /** `no-op`: there was nothing to do. `failed`: see `failure`; nothing has changed unless that says so. */
  readonly outcome: "done" | "no-op" | "failed";
  /** From `transition-started` on, the wait for requests in flight and reloading weights included. */
  readonly durationMs: number;
  /** What the allocator did; null where it was not asked, as at level 0, or failed. */
  readonly report: SleepReport | WakeReport | null;
  readonly failure: FailureSummary | null;
}

/** A request was admitted, held, parked, refused, aborted or released. */
export interface RequestsEvent extends EventBase {
  readonly type: "requests";
  readonly requests: RequestCounts;
}

/** What a controller tells its listeners. */
export type EngineEvent =
  | StateEvent
  | TransitionStartedEvent
  | TransitionProgressEvent
  | TransitionEndedEvent
  | RequestsEvent;

/**
 * Is called on the event loop, in the order of events, and not waited for. What it throws, or rejects with, becomes a warning of
 * the process.
 */
export type EngineListener = (event: EngineEvent) => unknown;

/** A display that fails must not fail a sleep, and only its author can mend it. */
function warn(error: unknown): void {
  process.emitWarning(`a listener of camem/server threw: ${error}`);
}

/** A set of listeners. */
export class EventSource {
  readonly #listeners = new Set<{ readonly listener: EngineListener }>();

  /**
   * Returns a function that takes the listener away again; calling it twice does nothing.
   *
   * @throws CamemError `INVALID_ARGUMENT`
   */
  subscribe(listener: EngineListener): () => void {
    if (typeof listener !== "function")
      throw new CamemError("INVALID_ARGUMENT", `listener is ${formatValue(listener)}; it must be a function`);
    const entry = { listener };
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  emit(event: EngineEvent): void {
    for (const { listener } of [...this.#listeners]) {
      try {
        const result = listener(event);
        if (result instanceof Promise) result.catch(warn);
      } catch (error) {
        warn(error);
      }
    }
  }
}

/** @internal */
export function summaryOf(error: unknown): FailureSummary {
  if (error instanceof CamemError) return { code: error.code, message: error.message };
  return { code: "UNKNOWN", message: messageOf(error) };
}
