import Type from "typebox";
import { type Clock, systemClock } from "../../async/clock.ts";
import { Deferred } from "../../async/deferred.ts";
import { SerialQueue } from "../../async/serial-queue.ts";
import { CamemError, formatValue } from "../../errors.ts";
import { type Duration, millisecondsOf } from "../../options/durations.ts";
import { validate } from "../../options/validate.ts";
import type { Lease } from "../engine/admission.ts";
import { type EngineWakeResult, SleepController } from "../engine/controller.ts";
import { type AdmitOptions, checkCall, type EngineWakeOptions } from "../engine/controller-options.ts";
import type { EngineEvent, EngineListener, InFlightMode } from "../engine/events.ts";
import { type EngineGroup, engineOf, type QueueCounts } from "./engine-group.ts";
import { PoolMember } from "./pool-member.ts";

export interface PoolOptions {
  /** The level at which an engine makes room for another; by default 1. At 2 its `reload` is needed to wake it. */
  readonly sleepLevel?: 1 | 2 | undefined;
  /**
   * How long an engine that woke serves requests before it has to make room for others; by default one second. Under alternating
   * requests each switch is followed by at least this much work, and nobody waits longer for the engines before him.
   */
  readonly minimumResidency?: Duration | undefined;
  /** What becomes of the requests of an engine that makes room; by default `wait`. */
  readonly evictionMode?: Exclude<InFlightMode, "keep"> | undefined;
  /** How long it is waited for them, in milliseconds; by default the engine's `drainDeadlineMs`. */
  readonly drainDeadlineMs?: number | undefined;
  /** How many requests wait at most, for all engines together; by default 1,024. */
  readonly queueLimit?: number | undefined;
  /** The longest that a request waits, in milliseconds; by default 30,000. */
  readonly holdDeadlineMs?: number | undefined;
  /** What a refused request is told to wait before it comes again; by default 5. */
  readonly retryAfterSeconds?: number | undefined;
  /** True: a request also wakes an engine that an operator put to sleep. By default its controller refuses or holds it. */
  readonly wakeOperatorSleep?: boolean | undefined;
  /** For tests. */
  readonly clock?: Clock | undefined;
}

const Count = Type.Integer({ minimum: 0, description: "a whole number, 0 or above" });
const Milliseconds = Type.Number({ minimum: 0, description: "milliseconds, 0 or above" });
const Given = Type.Unsafe<unknown>(Type.Unknown());
const OptionsSchema = Type.Object(
  {
    sleepLevel: Type.Optional(Type.Union([Type.Literal(1), Type.Literal(2)], { description: "1 or 2" })),
    minimumResidency: Type.Optional(Given),
    evictionMode: Type.Optional(
      Type.Union([Type.Literal("abort"), Type.Literal("wait")], { description: '"abort" or "wait"' }),
    ),
    drainDeadlineMs: Type.Optional(Milliseconds),
    queueLimit: Type.Optional(Count),
    holdDeadlineMs: Type.Optional(Milliseconds),
    retryAfterSeconds: Type.Optional(Count),
    wakeOperatorSleep: Type.Optional(Type.Boolean({ description: "true or false" })),
    clock: Type.Optional(Given),
  },
  { additionalProperties: false },
);

/**
 * Engines that share devices too small for all of them. Those that fit are awake; a request for a sleeping one puts the least
 * recently used to sleep and wakes it, all or nothing: where that fails, those that made room are awake again.
 *
 * Requests for an engine that is awake are served at once, until it has to make room; who waits longest is next, and an engine
 * for which there is room waits for nobody's residency. Sleeps that an operator asked for, and pauses, are not undone. The
 * engines remain their owner's.
 */
export class ModelPool implements EngineGroup {
  readonly engines: ReadonlyMap<string, SleepController>;
  readonly #members: ReadonlyMap<string, PoolMember>;
  readonly #options: PoolOptions;
  readonly #minimumResidencyMs: number;
  readonly #clock: Clock;
  readonly #queue = new SerialQueue();
  readonly #unsubscribe: readonly (() => void)[];
  /** The member that is being made room for. */
  #switchingTo: PoolMember | undefined;
  #cancelTimer: (() => void) | undefined;
  #arrivals = 0;
  #closing: Promise<void> | undefined;

  /** @throws CamemError `INVALID_CONFIG` */
  constructor(engines: readonly SleepController[], options: PoolOptions = {}) {
    validate(OptionsSchema, options, "the options of ModelPool", "INVALID_CONFIG");
    if (!Array.isArray(engines) || !engines.every((engine) => engine instanceof SleepController))
      throw new CamemError(
        "INVALID_CONFIG",
        `engines is ${formatValue(engines)}; it must be an array of controllers`,
      );
    this.engines = new Map(engines.map((engine) => [engine.name, engine]));
    if (engines.length === 0 || this.engines.size < engines.length)
      throw new CamemError("INVALID_CONFIG", "a pool needs engines, each with a name of its own");
    this.#options = options;
    this.#minimumResidencyMs = millisecondsOf(options.minimumResidency ?? "1s", "minimumResidency");
    this.#clock = options.clock ?? systemClock;
    this.#members = new Map(
      engines.map((engine) => [engine.name, new PoolMember(engine, this.#clock.nowMs())]),
    );
    this.#unsubscribe = engines.map((engine) => engine.subscribe((event) => this.#take(event)));
  }

  /**
   * Lets a request for `model` in, as {@link SleepController.admit}, and wakes the engine for it where there is room or room can
   * be made.
   *
   * @throws CamemError `UNKNOWN_MODEL`, `QUEUE_FULL`, `ENGINE_UNAVAILABLE` (also when room could not be made: see its `cause`),
   * `ABORTED`, `CLOSED` or `INVALID_ARGUMENT`
   */
  async admit(model: string, signal?: AbortSignal, options: AdmitOptions = {}): Promise<Lease> {
    checkCall("admit", options, signal);
    const member = this.#memberOf(model);
    this.#assertOpen();
    const limit = this.#options.queueLimit ?? 1024;
    if (!this.#serves(member) && this.#waiting() >= limit) {
      member.refusedTotal++;
      throw new CamemError("QUEUE_FULL", `${limit} requests wait for this pool already; try again later`, {
        retryAfterSeconds: this.#retryAfterSeconds,
      });
    }
    const deadlineMs = options.deadlineMs ?? this.#options.holdDeadlineMs ?? 30_000;
    const expired = () => {
      member.refusedTotal++;
      return this.#unavailable(member, `not awake within ${deadlineMs} ms`);
    };
    const wait = new Deferred<Lease>({ signal, deadlineMs, clock: this.#clock, expired });
    const entry = { wait, arrival: ++this.#arrivals, untilMs: this.#clock.nowMs() + deadlineMs };
    member.queue.add(entry);
    this.#schedule();
    try {
      return await wait.promise;
    } finally {
      member.queue.delete(entry);
    }
  }

  /**
   * Wakes an engine at once, for an operator: others make room as they do for a request, but without any delay.
   *
   * @throws CamemError `UNKNOWN_MODEL`, `OUT_OF_DEVICE_MEMORY` when there is too little to make room of, and as
   * {@link SleepController.wakeUp}
   */
  async wakeUp(model: string, options: EngineWakeOptions = {}): Promise<EngineWakeResult> {
    const member = this.#memberOf(model);
    this.#assertOpen();
    return this.#queue
      .run(options.signal, (signal) => this.#switchTo(member, { ...options, signal }))
      .finally(() => this.#schedule());
  }

  /** Tells `listener` of every event of every engine. Returns a function that ends it. */
  subscribe(listener: EngineListener): () => void {
    const ends = [...this.engines.values()].map((engine) => engine.subscribe(listener));
    return () => {
      for (const end of ends) end();
    };
  }

  /**
   * The requests that wait for an engine to be woken; its own `status.requests` tells of them once it is.
   *
   * @throws CamemError `UNKNOWN_MODEL`
   */
  queueOf(model: string): QueueCounts {
    const { waiting, refusedTotal } = this.#memberOf(model);
    return { waiting, refusedTotal };
  }

  /** Refuses those that wait and calls off a switch that runs. The engines stay open, and as they are. */
  async close(): Promise<void> {
    this.#closing ??= this.#closeNow();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #closeNow(): Promise<void> {
    const closed = new CamemError("CLOSED", "the pool is closed");
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
    this.#cancelTimer?.();
    const ended = this.#queue.end(closed);
    for (const member of this.#members.values()) member.refuse(closed);
    await ended;
  }

  #assertOpen(): void {
    if (this.#closing) throw new CamemError("CLOSED", "the pool is closed");
  }

  #memberOf(model: string): PoolMember {
    const { name } = engineOf(this, model);
    const member = this.#members.get(name);
    if (member === undefined) throw new TypeError(`the pool has no member for its engine ${name}`);
    return member;
  }

  get #retryAfterSeconds(): number {
    return this.#options.retryAfterSeconds ?? 5;
  }

  #unavailable(member: PoolMember, why: string, cause?: unknown): CamemError {
    return new CamemError(
      "ENGINE_UNAVAILABLE",
      `the engine ${member.engine.name} is ${why}; try again later`,
      {
        retryAfterSeconds: this.#retryAfterSeconds,
        cause,
      },
    );
  }

  #waiting(): number {
    return [...this.#members.values()].reduce((sum, member) => sum + member.queue.size, 0);
  }

  #serves(member: PoolMember): boolean {
    return member.engine.status.state === "awake" && !member.switching;
  }

  #take(event: EngineEvent): void {
    const member = this.#members.get(event.engine);
    if (member === undefined) return;
    if (event.type === "requests") member.lastUsedMs = this.#clock.nowMs();
    if (event.type !== "state") return;
    if (event.status.state === "awake") member.residentSinceMs = this.#clock.nowMs();
    this.#schedule();
  }

  /** Serves whom it can, and begins a switch for who waits longest of the others, or that needs nobody to make room. */
  #schedule(): void {
    if (this.#closing) return;
    for (const member of this.#members.values()) {
      if (this.#dispositionOf(member) === "serve") member.serve(this.#clock.nowMs());
    }
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    if (this.#switchingTo) return;
    let isFirst = true;
    for (const member of this.#waitingLongestFirst()) {
      const victims = this.#victimsOrRefusal(member);
      const mayEvict = isFirst;
      // Unless it was refused, it is now its turn.
      isFirst = isFirst && member.waitsSince === undefined;
      if (victims === undefined || (victims.length > 0 && !mayEvict)) continue;
      const dueMs = Math.max(
        0,
        ...victims.map((victim) => victim.residentSinceMs + this.#minimumResidencyMs),
      );
      const delayMs = dueMs - this.#clock.nowMs();
      if (delayMs <= 0) {
        this.#beginSwitch(member);
        return;
      }
      this.#cancelTimer = this.#clock.after(delayMs, () => this.#schedule());
    }
  }

  /** `serve`: its controller decides, as it is awake or not the pool's to wake. `wake`: the pool's to wake. */
  #dispositionOf(member: PoolMember): "serve" | "wait" | "wake" {
    if (member === this.#switchingTo || member.isMoving) return "wait";
    const { state, reason, paused } = member.engine.status;
    const isOurs = reason !== "operator" || this.#options.wakeOperatorSleep === true;
    return state === "asleep" && isOurs && !paused ? "wake" : "serve";
  }

  #waitingLongestFirst(): PoolMember[] {
    const waiting = [...this.#members.values()].filter(
      (member) => member.waitsSince !== undefined && this.#dispositionOf(member) === "wake",
    );
    return waiting.toSorted((a, b) => (a.waitsSince ?? 0) - (b.waitsSince ?? 0));
  }

  /**
   * Who makes room for it. Undefined where that does not suffice, of which those that wait have been told, unless others are
   * moving: what they make room for is known when they have ended, and then it is looked at again.
   */
  #victimsOrRefusal(member: PoolMember): readonly PoolMember[] | undefined {
    try {
      return this.#victimsFor(member, undefined);
    } catch (error) {
      const othersMove = [...this.#members.values()].some((other) => other !== member && other.isMoving);
      if (!othersMove) member.refuse(this.#unavailable(member, "asleep and cannot be woken", error));
      return undefined;
    }
  }

  #beginSwitch(member: PoolMember): void {
    this.#switchingTo = member;
    this.#queue
      .run(undefined, (signal) => this.#switchTo(member, { signal, reason: "pool" }))
      .catch((error) => member.refuse(this.#unavailable(member, "asleep and could not be woken", error)))
      .finally(() => {
        this.#switchingTo = undefined;
        this.#schedule();
      });
  }

  /**
   * Who makes room for waking `tags` of a member: as few as suffice, idle ones before busy ones, the least recently used first.
   *
   * @throws CamemError `OUT_OF_DEVICE_MEMORY` when all of them together do not suffice
   */
  #victimsFor(member: PoolMember, tags: readonly string[] | undefined): readonly PoolMember[] {
    let shortBytes = member.shortBytes(tags);
    const victims: PoolMember[] = [];
    const candidates = [...this.#members.values()].filter(
      (other) => other !== member && other.engine.status.state === "awake",
    );
    for (const victim of candidates.toSorted(PoolMember.compareUse)) {
      if (shortBytes <= 0) break;
      const sleepableBytes = victim.sleepableBytes(this.#sleepLevel);
      if (sleepableBytes === 0) continue;
      victims.push(victim);
      shortBytes -= sleepableBytes;
    }
    if (shortBytes <= 0) return victims;
    throw new CamemError(
      "OUT_OF_DEVICE_MEMORY",
      `the engine ${member.engine.name} needs ${shortBytes} bytes more than all others can make room for; nothing has changed`,
      { sizeBytes: shortBytes },
    );
  }

  get #sleepLevel(): 1 | 2 {
    return this.#options.sleepLevel ?? 1;
  }

  /** Puts to sleep who makes room, and wakes `member`; where that fails, wakes them again. */
  async #switchTo(
    member: PoolMember,
    options: EngineWakeOptions & { readonly signal: AbortSignal },
  ): Promise<EngineWakeResult> {
    const victims = this.#victimsFor(member, options.tags);
    const asleep: PoolMember[] = [];
    try {
      for (const other of [member, ...victims]) other.switching = true;
      for (const victim of victims) {
        await this.#evict(victim, options.signal);
        asleep.push(victim);
      }
      return await member.engine.wakeUp(options);
    } catch (error) {
      throw await this.#restore(asleep, error);
    } finally {
      for (const other of [member, ...victims]) other.switching = false;
    }
  }

  async #evict(victim: PoolMember, signal: AbortSignal): Promise<void> {
    const { evictionMode: mode = "wait", drainDeadlineMs: deadlineMs } = this.#options;
    await victim.engine.sleep({ level: this.#sleepLevel, mode, deadlineMs, signal, reason: "pool" });
  }

  /** Returns what is to be reported: `failure`, with what went wrong in waking the members that had made room. */
  async #restore(asleep: readonly PoolMember[], failure: unknown): Promise<unknown> {
    if (this.#closing) return failure;
    const failures: unknown[] = [];
    for (const { engine } of asleep.toReversed())
      await engine.wakeUp({ reason: "pool" }).catch((error) => failures.push(error));
    if (failures.length === 0) return failure;
    return new CamemError(
      "ENGINE_UNAVAILABLE",
      "an engine could not be woken, nor those that had made room for it; requests for them try again",
      { cause: new AggregateError([failure, ...failures]), retryAfterSeconds: this.#retryAfterSeconds },
    );
  }
}
