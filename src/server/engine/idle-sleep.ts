import Type from "typebox";
import { backgroundClock, type Clock } from "../../async/clock.ts";
import { CamemError, formatValue } from "../../errors.ts";
import { type Duration, millisecondsOf } from "../../options/durations.ts";
import { validate } from "../../options/validate.ts";
import { SleepController } from "./controller.ts";
import type { EngineEvent } from "./events.ts";

/** How deep to sleep after how long without a request. */
export interface IdleRung {
  readonly after: Duration;
  readonly level: 1 | 2;
}

export interface IdleOptions {
  /** From the lightest to the deepest, such as `[{ after: "5m", level: 1 }, { after: "1h", level: 2 }]`. */
  readonly ladder: readonly IdleRung[];
  /** How long the engine stays awake at least once it woke; by default 0. It never delays a wake-up. */
  readonly minimumAwake?: Duration | undefined;
  /** For tests. */
  readonly clock?: Clock | undefined;
}

interface Rung {
  readonly afterMs: number;
  readonly level: 1 | 2;
}

const Given = Type.Unsafe<unknown>(Type.Unknown());
const OptionsSchema = Type.Object(
  {
    ladder: Type.Array(Type.Object({ after: Given, level: Given }, { additionalProperties: false }), {
      minItems: 1,
      description: 'rungs, one or more, of after and level alone, such as [{ after: "5m", level: 1 }]',
    }),
    minimumAwake: Type.Optional(Given),
    clock: Type.Optional(Given),
  },
  { additionalProperties: false },
);

function resolveLadder(ladder: readonly IdleRung[]): Rung[] {
  const rungs = ladder.map(({ after, level }, index) => {
    if (level !== 1 && level !== 2)
      throw new CamemError(
        "INVALID_CONFIG",
        `ladder[${index}].level is ${formatValue(level)}; it must be 1 or 2`,
      );
    return { afterMs: millisecondsOf(after, `ladder[${index}].after`), level };
  });
  for (const [index, rung] of rungs.entries()) {
    const before = rungs[index - 1];
    if (before && (before.afterMs >= rung.afterMs || before.level >= rung.level))
      throw new CamemError(
        "INVALID_CONFIG",
        `ladder[${index}] must be later and deeper than ladder[${index - 1}], such as level 2 after "1h" behind level 1 after "5m"`,
      );
  }
  return rungs;
}

/**
 * Puts an engine to sleep when it has had no request for a while, and deeper when that lasts. It touches neither a sleep that
 * somebody else asked for nor an engine that is paused, and calls its own off when a request comes. Whether that request wakes
 * the engine is the controller's `whenAsleep`.
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
  #falling: AbortController | undefined;
  #cancelTimer: (() => void) | undefined;
  #closed = false;

  /** @throws CamemError `INVALID_CONFIG` */
  constructor(controller: SleepController, options: IdleOptions) {
    validate(OptionsSchema, options, "the options of IdleSleep", "INVALID_CONFIG");
    if (!(controller instanceof SleepController))
      throw new CamemError(
        "INVALID_CONFIG",
        `controller is ${formatValue(controller)}; it must be a SleepController; each engine of a pool has its own IdleSleep`,
      );
    this.#controller = controller;
    this.#ladder = resolveLadder(options.ladder);
    this.#minimumAwakeMs = millisecondsOf(options.minimumAwake ?? 0, "minimumAwake");
    this.#clock = options.clock ?? backgroundClock;
    this.#awakeSinceMs = this.#clock.nowMs();
    this.#idleSinceMs = this.#isBusy() ? undefined : this.#awakeSinceMs;
    this.#unsubscribe = controller.subscribe((event) => this.#take(event));
    this.#arm();
  }

  /** Ends it, and calls off a sleep of its own that is on its way. What sleeps stays asleep. */
  close(): void {
    this.#closed = true;
    this.#unsubscribe();
    this.#cancelTimer?.();
    this.#falling?.abort();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #isBusy(): boolean {
    const { running, parked, waiting } = this.#controller.status.requests;
    return running + parked + waiting > 0;
  }

  #take(event: EngineEvent): void {
    if (event.type === "requests") this.#noteRequests();
    if (event.type !== "state") return;
    if (event.status.state === "awake") {
      this.#awakeSinceMs = this.#clock.nowMs();
      if (this.#idleSinceMs !== undefined) this.#idleSinceMs = this.#awakeSinceMs;
    }
    this.#arm();
  }

  #noteRequests(): void {
    if (this.#isBusy()) {
      this.#idleSinceMs = undefined;
      this.#falling?.abort("a request came");
    } else this.#idleSinceMs = this.#clock.nowMs();
    this.#arm();
  }

  /** The rung that comes next; none while somebody else has a say. */
  #nextRung(): Rung | undefined {
    const { state, level, reason } = this.#controller.status;
    if (state === "awake") return this.#ladder[0];
    if (state !== "asleep" || reason !== "idle") return undefined;
    return this.#ladder.find((rung) => rung.level > (level ?? 0));
  }

  #arm(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const rung = this.#nextRung();
    if (this.#closed || this.#falling || rung === undefined || this.#idleSinceMs === undefined) return;
    const dueMs = Math.max(this.#idleSinceMs + rung.afterMs, this.#awakeSinceMs + this.#minimumAwakeMs);
    const delayMs = Math.max(0, dueMs - this.#clock.nowMs());
    this.#cancelTimer = this.#clock.after(delayMs, () => {
      // A timer cannot be set for more than some weeks.
      if (this.#clock.nowMs() < dueMs) this.#arm();
      else void this.#fall(rung.level);
    });
  }

  async #fall(level: 1 | 2): Promise<void> {
    this.#falling = new AbortController();
    const { signal } = this.#falling;
    try {
      await this.#controller.sleep({ level, mode: "wait", deadlineMs: 0, reason: "idle", signal });
    } catch (error) {
      if (error instanceof CamemError && error.code === "CLOSED") return this.close();
      // The controller's events tell why. It is tried again when the engine has been idle for as long once more.
      if (this.#idleSinceMs !== undefined) this.#idleSinceMs = this.#clock.nowMs();
    } finally {
      this.#falling = undefined;
      this.#arm();
    }
  }
}
