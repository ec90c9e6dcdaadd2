import Type, { type Static } from "typebox";
import { type Clock, systemClock } from "../../async/clock.ts";
import { Deferred } from "../../async/deferred.ts";
import { SerialQueue } from "../../async/serial-queue.ts";
import { becauseOf, CamemError, formatValue } from "../../errors.ts";
import { millisecondsOf } from "../../options/durations.ts";
import {
  Count,
  callback,
  closedObject,
  Duration,
  Flag,
  LevelAboveZero,
  Milliseconds,
  optional,
  unchecked,
  WholeSeconds,
} from "../../options/schemas.ts";
import { validate } from "../../options/validate.ts";
import { abortedByOperator } from "../engine/admission.ts";
import { SleepController } from "../engine/controller.ts";
import {
  type AdmitOptions,
  checkCall,
  type EngineWakeOptions,
  queueDefaults,
} from "../engine/controller-options.ts";
import type { EngineEvent, EngineListener } from "../engine/events.ts";
import type { Lease } from "../engine/lease.ts";
import type { EngineWakeResult } from "../engine/results.ts";
import { type EngineGroup, engineOf, type QueueCounts } from "./engine-group.ts";
import { PoolMember } from "./pool-member.ts";
import { isClosed, mayWakeForRequest, type RequestRule, requestRule } from "./rules.ts";
import { type EvictionOptions, isShortage, planEviction, Switch, type SwitchRequest } from "./switch.ts";

const Names = Type.Unsafe<readonly string[]>(
  Type.Array(Type.String(), { description: "an array of names of engines" }),
);

const ModelPoolOptions = closedObject({
  /**
   * The level at which an engine sleeps to make room for another; by default 1. Level 2 needs the engine's `reload`. An engine with
   * `reload` also sleeps at level 2 where level 1 exceeds the host budget.
   */
  sleepLevel: optional(LevelAboveZero),
  /**
   * How long an engine that woke serves requests before it must make room for others; by default one second. With alternating
   * requests, each switch is followed by at least this much work.
   */
  minimumResidency: optional(Duration),
  /** What happens to the requests in flight of an engine that makes room; by default `wait`. */
  evictionMode: optional(
    Type.Union([Type.Literal("abort"), Type.Literal("wait")], { description: '"abort" or "wait"' }),
  ),
  /** The longest wait for these requests, in milliseconds; by default the engine's `drainDeadlineMs`. */
  drainDeadlineMs: optional(Milliseconds),
  /** The most requests that wait at once, for all engines together; by default 1,024. */
  queueLimit: optional(Count),
  /** The longest that a request waits, in milliseconds; by default 30,000. */
  holdDeadlineMs: optional(Milliseconds),
  /** When a refused client should retry; by default 5. */
  retryAfterSeconds: optional(WholeSeconds),
  /** Called with the names of two engines. True: the second must sleep before the first wakes, whatever room there is. */
  conflicts: optional(callback<(engine: string, other: string) => boolean>()),
  /** Names of engines that never make room for others by their memory. */
  persistent: optional(Names),
  /** True: a request also wakes an engine that an operator put to sleep. By default it is refused or held, as for its controller. */
  wakeOperatorSleep: optional(Flag),
  /** For tests. */
  clock: optional(unchecked<Clock>()),
});

/** Options of {@link ModelPool}. */
export interface ModelPoolOptions extends Static<typeof ModelPoolOptions> {}

/**
 * Engines that share devices without room for all of them. A request for a sleeping engine puts others to sleep and wakes that
 * engine, all or nothing: if the wake-up fails, the engines that made room are awake again. The pool puts the fewest bytes to sleep
 * that suffice on the devices that are short: idle engines before busy ones, and among equals the least recently used.
 *
 * Requests for an engine that is awake are served at once, until it must make room. The engine whose request has waited longest
 * is next. An engine that fits beside the others wakes without delay. The pool does not end pauses or sleeps that an operator
 * asked for, also not those that begin while it makes room. It does not own the engines: close them yourself, after the pool.
 */
export class ModelPool implements EngineGroup {
  readonly engines: ReadonlyMap<string, SleepController>;
  readonly #members: ReadonlyMap<string, PoolMember>;
  readonly #options: ModelPoolOptions;
  readonly #eviction: EvictionOptions;
  readonly #minimumResidencyMs: number;
  readonly #clock: Clock;
  readonly #switches = new SerialQueue();
  readonly #unsubscribe: readonly (() => void)[];
  /** The switch in progress for requests. */
  #current: { readonly member: PoolMember; readonly run: Switch } | undefined;
  #cancelTimer: (() => void) | undefined;
  #arrivals = 0;
  /** Transitions so far that operators, idleness or clients asked for at an engine. */
  #foreignTransitions = 0;
  #closing: Promise<void> | undefined;

  /** @throws CamemError `INVALID_CONFIG` */
  constructor(engines: readonly SleepController[], options: ModelPoolOptions = {}) {
    validate(ModelPoolOptions, options, "ModelPool", "INVALID_CONFIG");
    if (!Array.isArray(engines) || !engines.every((engine) => engine instanceof SleepController))
      throw new CamemError(
        "INVALID_CONFIG",
        `engines is ${formatValue(engines)}; it must be an array of controllers`,
      );
    this.engines = new Map(engines.map((engine) => [engine.name, engine]));
    if (engines.length === 0) throw new CamemError("INVALID_CONFIG", "a pool needs at least one engine");
    const repeated = engines.find(({ name }, index) => engines.findIndex((one) => one.name === name) < index);
    if (repeated !== undefined)
      throw new CamemError(
        "INVALID_CONFIG",
        `two engines of the pool have the name ${formatValue(repeated.name)}; give each controller its own`,
      );
    this.#options = options;
    this.#minimumResidencyMs = millisecondsOf(options.minimumResidency ?? "1s", "minimumResidency");
    this.#eviction = {
      sleepLevel: options.sleepLevel ?? 1,
      mode: options.evictionMode ?? "wait",
      drainDeadlineMs: options.drainDeadlineMs,
      retryAfterSeconds: options.retryAfterSeconds ?? queueDefaults.retryAfterSeconds,
      conflicts: options.conflicts ?? (() => false),
      isPersistent: (name) => options.persistent?.includes(name) === true,
      closing: this.#switches.ending,
    };
    this.#clock = options.clock ?? systemClock;
    this.#members = new Map(
      engines.map((engine) => [engine.name, new PoolMember(engine, this.#clock.nowMs())]),
    );
    this.#unsubscribe = engines.map((engine) => engine.subscribe((event) => this.#onEvent(event)));
  }

  /**
   * Admits a request for `model`, as {@link SleepController.admit}. Wakes its engine if there is room or others can make room.
   *
   * @throws CamemError `UNKNOWN_MODEL`, `QUEUE_FULL`, `ENGINE_UNAVAILABLE` (also when others could not make room: see its
   * `cause`), `ABORTED`, `CLOSED` or `INVALID_ARGUMENT`
   */
  async admit(model: string, signal?: AbortSignal, options: AdmitOptions = {}): Promise<Lease> {
    checkCall("admit", options, signal);
    const member = this.#memberOf(model);
    this.#assertOpen();
    const limit = this.#options.queueLimit ?? queueDefaults.queueLimit;
    if (!this.#serves(member) && this.#waiting() >= limit) {
      member.refusedTotal++;
      throw new CamemError("QUEUE_FULL", `${limit} requests already wait for this pool; try again later`, {
        retryAfterSeconds: this.#eviction.retryAfterSeconds,
      });
    }
    const deadlineMs = options.deadlineMs ?? this.#options.holdDeadlineMs ?? queueDefaults.holdDeadlineMs;
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
      this.#cancelUnwanted();
    }
  }

  /**
   * Wakes an engine at once, for an operator. Others make room as they do for a request, but without `minimumResidency`.
   *
   * @throws CamemError `UNKNOWN_MODEL`, `OUT_OF_DEVICE_MEMORY` when others cannot make enough room, and as
   * {@link SleepController.wakeUp}
   */
  async wakeUp(model: string, options: EngineWakeOptions = {}): Promise<EngineWakeResult> {
    const member = this.#memberOf(model);
    this.#assertOpen();
    if (isClosed(member.engine.status))
      throw new CamemError("CLOSED", `the controller of the engine ${member.engine.name} is closed`);
    const { signal: requested, tags, reason } = options;
    const isWanted = () => !isClosed(member.engine.status);
    const operated = this.#newSwitch(member, { tags, reason, isWanted, isDue: () => true });
    return this.#switches.run(requested, (signal) => operated.run(signal)).finally(() => this.#schedule());
  }

  /**
   * Aborts the requests in flight at an engine, and refuses those that wait for it here or there. Returns how many there were.
   *
   * @throws CamemError `UNKNOWN_MODEL` or `CLOSED`
   */
  abortRequests(model: string): number {
    const member = this.#memberOf(model);
    const { waiting } = member;
    member.refuse(abortedByOperator());
    return waiting + member.engine.abortRequests();
  }

  /** Calls `listener` for every event of every engine. Returns a function that unsubscribes it. */
  subscribe(listener: EngineListener): () => void {
    const unsubscribes = [...this.engines.values()].map((engine) => engine.subscribe(listener));
    return () => {
      for (const unsubscribe of unsubscribes) unsubscribe();
    };
  }

  /**
   * Requests that wait for the pool to wake an engine. The engine's own `status.requests` does not count them until then.
   *
   * @throws CamemError `UNKNOWN_MODEL`
   */
  queueOf(model: string): QueueCounts {
    const { waiting, refusedTotal } = this.#memberOf(model);
    return { waiting, refusedTotal };
  }

  /** Refuses requests that wait and cancels the switch in progress. The engines stay open and as they are. */
  async close(): Promise<void> {
    this.#closing ??= this.#closeNow();
    return this.#closing;
  }

  /** Makes `await using` close the pool. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #closeNow(): Promise<void> {
    const closed = new CamemError("CLOSED", "the pool is closed");
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
    this.#cancelTimer?.();
    const ended = this.#switches.end(closed);
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

  #unavailable(member: PoolMember, why: string, cause?: unknown): CamemError {
    return new CamemError(
      "ENGINE_UNAVAILABLE",
      `the engine ${member.engine.name} is ${why}; try again later`,
      { retryAfterSeconds: this.#eviction.retryAfterSeconds, cause },
    );
  }

  #waiting(): number {
    return [...this.#members.values()].reduce((sum, member) => sum + member.queue.size, 0);
  }

  #serves(member: PoolMember): boolean {
    return member.servesEarly || (member.engine.status.state === "awake" && !member.isSwitching);
  }

  #onEvent(event: EngineEvent): void {
    const member = this.#members.get(event.engine);
    if (member === undefined) return;
    if (event.type === "requests") {
      member.lastUsedMs = this.#clock.nowMs();
      if (member.servesEarly && member.queue.size > 0) member.serve(this.#clock.nowMs());
    }
    if (event.type === "transition-started" && event.reason !== "pool") this.#foreignTransitions++;
    if (event.type !== "state") return;
    if (event.status.state === "awake") member.residentSinceMs = this.#clock.nowMs();
    this.#cancelUnwanted();
    this.#schedule();
  }

  /**
   * Serves the requests that need no switch, and begins a switch for the request that has waited longest, or for one that needs
   * no eviction.
   */
  #schedule(): void {
    if (this.#closing) return;
    for (const member of this.#members.values()) {
      if (this.#ruleOf(member) === "serve") member.serve(this.#clock.nowMs());
    }
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    if (this.#current) return;
    let isFirst = true;
    for (const member of this.#waitingLongestFirst()) {
      const victims = this.#victimsOrRefusal(member);
      const mayEvict = isFirst;
      // A member whose requests were just refused does not block the others.
      isFirst = isFirst && member.firstArrival === undefined;
      if (victims === undefined || (victims.length > 0 && !mayEvict)) continue;
      const delayMs = Math.max(0, ...victims.map((victim) => this.#residencyLeftMs(victim)));
      if (delayMs <= 0) {
        this.#beginSwitch(member);
        return;
      }
      this.#cancelTimer = this.#clock.after(delayMs, () => this.#schedule());
    }
  }

  #residencyLeftMs(member: PoolMember): number {
    return member.residentSinceMs + this.#minimumResidencyMs - this.#clock.nowMs();
  }

  /** The rule for requests of a member, which wait while it makes room or others make room for it. */
  #ruleOf(member: PoolMember): RequestRule {
    if (member.servesEarly) return "serve";
    if (member === this.#current?.member || member.isSwitching) return "wait";
    return requestRule(member.engine, this.#wakesOperatorSleep);
  }

  get #wakesOperatorSleep(): boolean {
    return this.#options.wakeOperatorSleep === true;
  }

  /** Whether a request needs the pool to wake a member, and may. */
  #isWanted(member: PoolMember): boolean {
    return (
      member.firstArrival !== undefined && mayWakeForRequest(member.engine.status, this.#wakesOperatorSleep)
    );
  }

  /** Stops making room once no request needs it any longer, or an operator has put the engine to sleep or paused it. */
  #cancelUnwanted(): void {
    if (this.#current && !this.#isWanted(this.#current.member)) this.#current.run.cancel();
  }

  #waitingLongestFirst(): PoolMember[] {
    const waiting = [...this.#members.values()].filter(
      (member) => member.firstArrival !== undefined && this.#ruleOf(member) === "wake",
    );
    return waiting.toSorted((a, b) => (a.firstArrival ?? 0) - (b.firstArrival ?? 0));
  }

  /**
   * The members that make room. If all together do not suffice, returns undefined and refuses the requests; while others are
   * busy it refuses nothing, since the pool schedules again when they have settled.
   */
  #victimsOrRefusal(member: PoolMember): readonly PoolMember[] | undefined {
    try {
      const members = [...this.#members.values()];
      const { victims } = planEviction(member, undefined, { members, available: members }, this.#eviction);
      return victims.map(({ candidate }) => candidate.member);
    } catch (error) {
      if (!this.#areOthersBusy(member))
        member.refuse(this.#unavailable(member, `asleep and cannot be woken${becauseOf(error)}`, error));
      return undefined;
    }
  }

  /** True while memory of another member moves, or is about to. */
  #areOthersBusy(member: PoolMember): boolean {
    return [...this.#members.values()].some((other) => other !== member && other.isMoving);
  }

  #newSwitch(member: PoolMember, request: SwitchRequest): Switch {
    return new Switch(member, [...this.#members.values()], request, this.#eviction);
  }

  #beginSwitch(member: PoolMember): void {
    const isDue = (victim: PoolMember) => this.#residencyLeftMs(victim) <= 0;
    const isWanted = () => this.#isWanted(member);
    const run = this.#newSwitch(member, { reason: "pool", isWanted, isDue });
    this.#current = { member, run };
    let foreignBefore = this.#foreignTransitions;
    const start = async (signal: AbortSignal) => {
      foreignBefore = this.#foreignTransitions;
      // An operator's switch may have come first.
      const victims = isWanted() ? this.#victimsOrRefusal(member) : undefined;
      if (victims?.every(isDue)) await run.run(signal);
    };
    const end = (failure?: unknown) => {
      this.#current = undefined;
      // Requests that came after a cancelled switch are scheduled anew.
      if (failure !== undefined && !run.isCancelled && this.#ruleOf(member) === "wake") {
        // What moves may have taken the room; the pool schedules again once that has settled.
        if (isShortage(failure) && this.#areOthersBusy(member)) return;
        const hasLostRoom = isShortage(failure) && this.#foreignTransitions > foreignBefore;
        const why = `asleep and could not be woken${becauseOf(failure)}`;
        if (!hasLostRoom) member.refuse(this.#unavailable(member, why, failure));
      }
      this.#schedule();
    };
    this.#switches.run(undefined, start).then(() => end(), end);
  }
}
