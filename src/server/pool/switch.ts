/** One switch: engines of a pool make room, and another one wakes. */

import { aborted } from "../../async/abortable.ts";
import { CamemError } from "../../errors.ts";
import type { EngineSleepOptions, EngineWakeOptions, InFlightMode } from "../engine/controller-options.ts";
import { isComplete } from "../engine/engine-memory.ts";
import type { EngineStatus } from "../engine/events.ts";
import type { EngineWakeResult } from "../engine/results.ts";
import type { Leftovers, PlannedSleep, PoolMember } from "./pool-member.ts";
import { mayGiveBack, mayMakeRoom, mayRestore } from "./rules.ts";
import {
  type BytesByDevice,
  type Candidate,
  chooseVictims,
  helps,
  lessMissing,
  mostFreed,
  sumOf,
  type Victim,
} from "./victims.ts";

/** How engines make room. */
export interface EvictionOptions {
  /** The level at which evicted engines sleep, unless only a deeper one is possible. */
  readonly sleepLevel: 1 | 2;
  readonly mode: InFlightMode;
  readonly drainDeadlineMs: number | undefined;
  readonly retryAfterSeconds: number;
  /** True when `other` must sleep before `engine` wakes. */
  readonly conflicts: (engine: string, other: string) => boolean;
  /** True for an engine that never makes room. */
  readonly isPersistent: (engine: string) => boolean;
  /** Aborted when the pool closes. */
  readonly closing: AbortSignal;
}

/** Who asked for a switch, and what it must respect. */
export interface SwitchRequest {
  readonly tags?: readonly string[] | undefined;
  readonly reason?: EngineWakeOptions["reason"];
  /** False once nobody needs the wake-up or an operator has forbidden it. */
  readonly isWanted: () => boolean;
  /** Whether the residency of a member has passed. */
  readonly isDue: (member: PoolMember) => boolean;
}

/** A member that can make room. */
interface Evictable extends Candidate {
  readonly member: PoolMember;
  readonly sleeps: readonly PlannedSleep[];
}

/** The engines that make room, and those that first give back the memory of a failed release. */
export interface Eviction {
  readonly leftovers: readonly { readonly member: PoolMember; readonly sleep: Leftovers }[];
  readonly victims: readonly Victim<Evictable>[];
}

/** The part of {@link EvictionOptions} that decides who makes room. */
type EvictionRules = Pick<EvictionOptions, "sleepLevel" | "conflicts" | "isPersistent">;

/**
 * Plans how `available`, which are some of all `members`, make room for waking `tags` of `member`. Engines that conflict with it
 * sleep in any case. Memory that a failed release has left goes first: it costs nothing. Engines sleep deeper than the sleep level
 * only where they can reload their weights and no lighter choice suffices.
 *
 * @throws CamemError `OUT_OF_DEVICE_MEMORY` or `HOST_BUDGET_EXCEEDED` when all of them together do not suffice;
 * `ENGINE_UNAVAILABLE` when one that conflicts cannot sleep
 */
export function planEviction(
  member: PoolMember,
  tags: readonly string[] | undefined,
  {
    members,
    available,
  }: { readonly members: readonly PoolMember[]; readonly available: readonly PoolMember[] },
  rules: EvictionRules,
): Eviction {
  const { sleepLevel, conflicts, isPersistent } = rules;
  const isRival = ({ engine }: PoolMember) => conflicts(member.engine.name, engine.name);
  const others = available.filter((other) => other !== member);
  const awake = others.filter(({ engine }) => mayMakeRoom(engine.status));
  const forced = members
    .filter((other) => other !== member && isRival(other) && other.engine.status.state !== "asleep")
    .map((rival) => forcedSleep(member, rival, awake, sleepLevel));
  let missing = member.missing(tags);
  for (const { sleep } of forced) missing = lessMissing(missing, sleep.freed);
  if (missing.size === 0) return { leftovers: [], victims: forced };
  const leftovers = others
    .filter(({ engine }) => mayGiveBack(engine.status))
    .map((other) => ({ member: other, sleep: other.leftovers() }))
    .filter(({ sleep }) => helps(missing, sleep.freed));
  for (const { sleep } of leftovers) missing = lessMissing(missing, sleep.freed);
  const optional = awake.filter((other) => !isRival(other) && !isPersistent(other.engine.name));
  let candidates = optional.map((other) => evictable(other, [sleepLevel]));
  let victims = chooseFitting(missing, candidates);
  if (victims === undefined && sleepLevel === 1) {
    candidates = optional.map((other) => evictable(other, [1, 2]));
    victims = chooseFitting(missing, candidates);
  }
  if (victims === undefined) throw shortage(member, missing, candidates);
  return { leftovers, victims: [...forced, ...victims] };
}

/** The sleep of an engine that conflicts: the lightest that fits. */
function forcedSleep(
  member: PoolMember,
  rival: PoolMember,
  awake: readonly PoolMember[],
  sleepLevel: 1 | 2,
): Victim<Evictable> {
  if (!awake.includes(rival))
    throw new CamemError(
      "ENGINE_UNAVAILABLE",
      `the engine ${rival.engine.name} must sleep before ${member.engine.name} wakes, but it is ${rival.engine.status.state}; nothing has changed`,
    );
  const candidate = evictable(rival, sleepLevel === 1 ? [1, 2] : [2]);
  const sleep = candidate.sleeps.find(({ fits }) => fits);
  if (sleep === undefined) throw hostShortage(member, 0);
  return { candidate, sleep };
}

/** Levels after the first are deeper ones, for engines that can reload their weights. */
function evictable(member: PoolMember, levels: readonly (1 | 2)[]): Evictable {
  const { engine, isBusy, lastUsedMs } = member;
  const possible = engine.canReload ? levels : levels.slice(0, 1);
  return {
    member,
    isBusy,
    lastUsedMs,
    sleeps: possible.map((level, index) => member.plannedSleep(level, index > 0)),
  };
}

/** Chooses among the sleeps whose backups fit. */
function chooseFitting(
  missing: BytesByDevice,
  candidates: readonly Evictable[],
): readonly Victim<Evictable>[] | undefined {
  const rooms = candidates.flatMap(({ sleeps }) => sleeps.map(({ backupRoomBytes }) => backupRoomBytes));
  const fitting = candidates.map((each) => ({ ...each, sleeps: each.sleeps.filter(({ fits }) => fits) }));
  return chooseVictims(missing, fitting, Math.min(...rooms));
}

function shortage(member: PoolMember, missing: BytesByDevice, candidates: readonly Evictable[]): CamemError {
  const { engine } = member;
  const freed = [...missing.keys()].map((device) => {
    const bytes = candidates.reduce((sum, candidate) => sum + mostFreed(candidate, device), 0);
    return [device, bytes] as const;
  });
  const short = lessMissing(missing, new Map(freed));
  const sizeBytes = sumOf(short);
  if (sizeBytes > 0)
    return new CamemError(
      "OUT_OF_DEVICE_MEMORY",
      `the engine ${engine.name} needs ${sizeBytes} bytes more than all other engines can free on device ${[...short.keys()].join(" and ")}; nothing has changed`,
      { sizeBytes },
    );
  return hostShortage(member, sumOf(missing));
}

function hostShortage({ engine }: PoolMember, sizeBytes: number): CamemError {
  return new CamemError(
    "HOST_BUDGET_EXCEEDED",
    `the engines that could make room for ${engine.name} exceed the host budget; nothing has changed; raise hostBudget (CAMEM_HOST_BUDGET), set spillDir (CAMEM_SPILL_DIR) or give the engines a reload`,
    { sizeBytes },
  );
}

/** True for the failure of a switch that found too little room, on a device or for backups. */
export function isShortage(failure: unknown): boolean {
  if (!(failure instanceof CamemError)) return false;
  const { code, cause } = failure;
  if (cause instanceof AggregateError) return isShortage(cause.errors[0]);
  return code === "OUT_OF_DEVICE_MEMORY" || code === "HOST_BUDGET_EXCEEDED";
}

/** Makes room and wakes one engine, all or nothing: if the wake-up fails, the engines that made room are woken again. */
export class Switch {
  readonly #member: PoolMember;
  readonly #members: readonly PoolMember[];
  readonly #request: SwitchRequest;
  readonly #options: EvictionOptions;
  /** Members that were asked to make room or to give back leftovers: each is asked once. */
  readonly #asked = new Set<PoolMember>();
  readonly #gaveBack = new Set<PoolMember>();
  readonly #evicted: PoolMember[] = [];
  readonly #failures: unknown[] = [];
  readonly #makingRoom = new AbortController();
  #isWaking = false;

  constructor(
    member: PoolMember,
    members: readonly PoolMember[],
    request: SwitchRequest,
    options: EvictionOptions,
  ) {
    this.#member = member;
    this.#members = members;
    this.#request = request;
    this.#options = options;
  }

  /** True once the switch has been given up because nobody wants it. */
  get isCancelled(): boolean {
    return this.#makingRoom.signal.aborted;
  }

  /** Stops making room. A wake-up that has begun completes. */
  cancel(): void {
    if (!this.#isWaking) this.#makingRoom.abort();
  }

  /** @throws CamemError the failure of the switch; with `transitionComplete`, the memory is awake nevertheless */
  async run(signal: AbortSignal): Promise<EngineWakeResult> {
    const { tags, reason } = this.#request;
    try {
      await this.#makeRoom(AbortSignal.any([signal, this.#makingRoom.signal]));
      const onlyIf = () => {
        if (!this.#request.isWanted()) this.cancel();
        this.#isWaking = !this.isCancelled;
        return this.#isWaking;
      };
      return await this.#member.engine.wakeUp({ tags, reason, signal, onlyIf });
    } catch (error) {
      if (isComplete(error)) throw error;
      throw await this.#restore(error);
    } finally {
      for (const each of this.#members) each.isSwitching = false;
    }
  }

  /** Plans again after each sleep, since engines, operators and memory may have changed meanwhile. */
  async #makeRoom(signal: AbortSignal): Promise<void> {
    while (true) {
      if (!this.#request.isWanted()) this.cancel();
      if (signal.aborted) throw aborted(signal);
      const { leftovers, victims } = this.#plan();
      const involved = [this.#member, ...this.#evicted, ...victims.map(({ candidate }) => candidate.member)];
      for (const each of this.#members) each.isSwitching = involved.includes(each);
      const [leftover] = leftovers;
      const [victim] = victims;
      if (leftover) await this.#giveBack(leftover.member, leftover.sleep, signal);
      else if (victim) await this.#evict(victim.candidate.member, victim.sleep.level, signal);
      else return;
    }
  }

  #plan(): Eviction {
    const { tags, isDue } = this.#request;
    const available = this.#members.filter((member) =>
      mayGiveBack(member.engine.status)
        ? !this.#gaveBack.has(member)
        : !this.#asked.has(member) && isDue(member),
    );
    try {
      return planEviction(this.#member, tags, { members: this.#members, available }, this.#options);
    } catch (error) {
      throw this.#failures[0] ?? error;
    }
  }

  async #evict(member: PoolMember, level: 1 | 2, signal: AbortSignal): Promise<void> {
    this.#asked.add(member);
    const { mode, drainDeadlineMs: deadlineMs } = this.#options;
    if (await this.#sleep(member, mayMakeRoom, { level, mode, deadlineMs, signal }))
      this.#evicted.push(member);
  }

  async #giveBack(member: PoolMember, planned: Leftovers, signal: AbortSignal): Promise<void> {
    this.#gaveBack.add(member);
    const { level, tags } = planned;
    // An operator may have woken some of these tags, or put them to sleep at another level.
    const rule = (status: EngineStatus) => {
      const now = mayGiveBack(status) ? member.leftovers() : undefined;
      return now?.level === level && now.freed.size > 0 && tags.every((tag) => now.tags.includes(tag));
    };
    await this.#sleep(member, rule, { level, tags, signal });
  }

  /**
   * Puts a member to sleep if `rule` still permits it when its turn comes. True when the memory is asleep. Another engine may do
   * where one fails, so only an abort ends the switch.
   */
  async #sleep(
    { engine }: PoolMember,
    rule: (status: EngineStatus) => boolean,
    options: EngineSleepOptions & { readonly signal: AbortSignal },
  ): Promise<boolean> {
    const onlyIf = () => rule(engine.status);
    try {
      await engine.sleep({ ...options, reason: "pool", onlyIf });
      return true;
    } catch (error) {
      if (options.signal.aborted && !isComplete(error)) throw error;
      if (isComplete(error)) return true;
      if (onlyIf()) this.#failures.push(error);
      return false;
    }
  }

  /** Wakes evicted members again. Returns the error to report: `failure`, together with failures of these wake-ups. */
  async #restore(failure: unknown): Promise<unknown> {
    const { closing, retryAfterSeconds } = this.#options;
    const failures: unknown[] = [];
    for (const { engine } of this.#evicted.toReversed()) {
      if (closing.aborted) return failure;
      const onlyIf = () => mayRestore(engine.status);
      await engine.wakeUp({ reason: "pool", onlyIf }).catch((error) => {
        if (onlyIf() && !isComplete(error)) failures.push(error);
      });
    }
    if (failures.length === 0) return failure;
    return new CamemError(
      "ENGINE_UNAVAILABLE",
      "an engine could not be woken, nor could the engines that had made room for it; requests for them try again",
      { cause: new AggregateError([failure, ...failures]), retryAfterSeconds },
    );
  }
}
