import Type, { type Static } from "typebox";
import { backgroundClock, type Clock } from "../../async/clock.ts";
import { CamemError, formatValue, isUnusable } from "../../errors.ts";
import { millisecondsOf } from "../../options/durations.ts";
import {
  closedObject,
  Duration,
  LevelAboveZero,
  optional,
  required,
  unchecked,
} from "../../options/schemas.ts";
import { validate } from "../../options/validate.ts";
import { SleepController } from "./controller.ts";
import type { EngineEvent } from "./events.ts";

const IdleRung = closedObject({
  /** How long the engine must have had no request. */
  after: required(Duration),
  /** The level of the sleep. */
  level: required(LevelAboveZero),
});

/** One step of the ladder: the level of the sleep after a time without requests. */
export interface IdleRung extends Static<typeof IdleRung> {}

const IdleOptions = closedObject({
  /** From the lightest level to the deepest, such as `[{ after: "5m", level: 1 }, { after: "1h", level: 2 }]`. */
  ladder: required(
    Type.Unsafe<readonly IdleRung[]>(
      Type.Array(Type.Unknown(), {
        minItems: 1,
        description: 'rungs, one or more, such as [{ after: "5m", level: 1 }]',
      }),
    ),
  ),
  /** How long the engine stays awake at least after it woke; by default 0. It never delays a wake-up. */
  minimumAwake: optional(Duration),
  /** For tests. */
  clock: optional(unchecked<Clock>()),
});

/** Options of {@link IdleSleep}. */
export interface IdleOptions extends Static<typeof IdleOptions> {}

interface Rung {
  readonly afterMs: number;
  readonly level: 1 | 2;
}

/** @throws CamemError `INVALID_CONFIG` */
function resolveLadder(ladder: readonly IdleRung[]): Rung[] {
  const rungs = ladder.map((rung, index) => {
    const label = `ladder[${index}]`;
    validate(IdleRung, rung, label, "INVALID_CONFIG", {
      labels: { after: `${label}.after`, level: `${label}.level` },
    });
    return { afterMs: millisecondsOf(rung.after, `${label}.after`), level: rung.level };
  });
  const index = misplacedRung(rungs);
  if (index > 0)
    throw new CamemError(
      "INVALID_CONFIG",
      `ladder[${index}] must be later and deeper than ladder[${index - 1}], such as level 2 after "1h" following level 1 after "5m"`,
      { property: "ladder" },
    );
  return rungs;
}

/** The index of the first rung that is not later and deeper than the one before it; -1 where there is none. */
export function misplacedRung(rungs: readonly Rung[]): number {
  return rungs.findIndex((rung, index) => {
    const before = rungs[index - 1];
    return before !== undefined && (before.afterMs >= rung.afterMs || before.level >= rung.level);
  });
}

/**
 * Puts an engine to sleep when it has had no request for a while, and to a deeper level when it stays idle, also where a lighter
 * level has failed or where a pool put it to sleep. It leaves an operator's sleep, and an engine that is paused, as they are. It
 * cancels its own sleep when a request comes; the controller's `whenAsleep` decides whether that request wakes the engine.
 */
export class IdleSleep implements Disposable {
  readonly #controller: SleepController;
  readonly #ladder: readonly Rung[];
  readonly #minimumAwakeMs: number;
  readonly #clock: Clock;
  readonly #unsubscribe: () => void;
  /** Undefined while there are requests. */
  #idleSinceMs: number | undefined;
  #awakeSinceMs: number;
  #arrived: number;
  /** When the latest sleep of a rung failed, since the engine has been idle. */
  readonly #failedAtMs = new Map<Rung, number>();
  #sleepInProgress: AbortController | undefined;
  #cancelTimer: (() => void) | undefined;
  #closed = false;

  /** @throws CamemError `INVALID_CONFIG` */
  constructor(controller: SleepController, options: IdleOptions) {
    validate(IdleOptions, options, "IdleSleep", "INVALID_CONFIG");
    if (!(controller instanceof SleepController))
      throw new CamemError(
        "INVALID_CONFIG",
        `controller is ${formatValue(controller)}; it must be a SleepController; give each engine of a pool its own IdleSleep`,
      );
    this.#controller = controller;
    this.#ladder = resolveLadder(options.ladder);
    this.#minimumAwakeMs = millisecondsOf(options.minimumAwake ?? 0, "minimumAwake");
    this.#clock = options.clock ?? backgroundClock;
    this.#awakeSinceMs = this.#clock.nowMs();
    this.#arrived = this.#arrivedTotal();
    this.#idleSinceMs = this.#isBusy() ? undefined : this.#awakeSinceMs;
    this.#unsubscribe = controller.subscribe((event) => this.#onEvent(event));
    this.#schedule();
  }

  /** Stops watching the engine, and cancels a sleep of its own in progress. An engine that sleeps stays asleep. */
  close(): void {
    this.#closed = true;
    this.#unsubscribe();
    this.#cancelTimer?.();
    this.#sleepInProgress?.abort();
  }

  /** Makes `using` close it. */
  [Symbol.dispose](): void {
    this.close();
  }

  #isBusy(): boolean {
    const { running, parked, waiting } = this.#controller.status.requests;
    return running + parked + waiting > 0;
  }

  /** How many requests have come, also those that were refused. */
  #arrivedTotal(): number {
    const { admittedTotal, refusedTotal } = this.#controller.status.requests;
    return admittedTotal + refusedTotal;
  }

  #onEvent(event: EngineEvent): void {
    if (event.type === "requests") this.#onRequests();
    // While this sleep waited its turn, the engine may have been paused or put to sleep by an operator.
    if (event.type === "transition-started" && event.reason === "idle" && this.#dueRungs().length === 0)
      this.#sleepInProgress?.abort("the engine is paused, or an operator put it to sleep");
    if (event.type !== "state") return;
    // After a failed sleep the engine is awake as before, not anew.
    if (event.status.state === "awake" && event.previous !== "falling-asleep") {
      this.#awakeSinceMs = this.#clock.nowMs();
      if (this.#idleSinceMs !== undefined) this.#startIdling();
    }
    this.#schedule();
  }

  #onRequests(): void {
    const arrived = this.#arrivedTotal();
    if (this.#isBusy()) {
      this.#idleSinceMs = undefined;
      this.#sleepInProgress?.abort("a request came");
    } else if (this.#idleSinceMs === undefined || arrived !== this.#arrived) this.#startIdling();
    this.#arrived = arrived;
    this.#schedule();
  }

  #startIdling(): void {
    this.#idleSinceMs = this.#clock.nowMs();
    this.#failedAtMs.clear();
  }

  /**
   * The rungs below the engine's level and when each is due, from the lightest. There are none while the engine is in use, paused,
   * or asleep because an operator asked for it.
   */
  #dueRungs(): { readonly rung: Rung; readonly dueMs: number }[] {
    const { state, level, reason, paused } = this.#controller.status;
    const maySleep = state === "awake" || (state === "asleep" && !paused && reason !== "operator");
    const idleSinceMs = this.#idleSinceMs;
    if (!maySleep || idleSinceMs === undefined) return [];
    return this.#ladder
      .filter((rung) => rung.level > (level ?? 0))
      .map((rung) => ({
        rung,
        dueMs: Math.max(
          (this.#failedAtMs.get(rung) ?? idleSinceMs) + rung.afterMs,
          this.#awakeSinceMs + this.#minimumAwakeMs,
        ),
      }));
  }

  #schedule(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    if (this.#closed || this.#sleepInProgress) return;
    const rungs = this.#dueRungs();
    if (rungs.length === 0) return;
    const nextMs = Math.min(...rungs.map(({ dueMs }) => dueMs));
    this.#cancelTimer = this.#clock.after(Math.max(0, nextMs - this.#clock.nowMs()), () => {
      const deepest = rungs.findLast(({ dueMs }) => dueMs <= this.#clock.nowMs());
      // The clock's timers are shorter than some weeks.
      if (deepest === undefined) this.#schedule();
      else void this.#sleep(deepest.rung);
    });
  }

  async #sleep(rung: Rung): Promise<void> {
    const { level } = rung;
    this.#sleepInProgress = new AbortController();
    const { signal } = this.#sleepInProgress;
    try {
      await this.#controller.sleep({ level, mode: "wait", deadlineMs: 0, reason: "idle", signal });
    } catch (error) {
      // The memory of an engine that has died may come back with the next one.
      if (isUnusable(error) && this.#controller.status.state === "closed") return this.close();
      // The controller's events have the failure. Try again after the same time once more; a deeper rung may be due earlier.
      this.#failedAtMs.set(rung, this.#clock.nowMs());
    } finally {
      this.#sleepInProgress = undefined;
      this.#schedule();
    }
  }
}
