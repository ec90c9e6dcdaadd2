/** Which engines of a pool make room for another, and the switch itself. */

import { CamemError } from "../../errors.ts";
import type { EngineWakeResult } from "../engine/controller.ts";
import type { EngineWakeOptions, InFlightMode } from "../engine/controller-options.ts";
import type { PoolMember } from "./pool-member.ts";

export interface EvictionOptions {
  /** The level at which evicted engines sleep. */
  readonly sleepLevel: 1 | 2;
  readonly mode: InFlightMode;
  readonly drainDeadlineMs: number | undefined;
  readonly retryAfterSeconds: number;
  /** Aborted when the pool closes. */
  readonly closing: AbortSignal;
}

/**
 * Chooses the engines that make room for waking `tags` of a member: as few as suffice, idle ones before busy ones, the least
 * recently used first.
 *
 * @throws CamemError `OUT_OF_DEVICE_MEMORY` when all of them together do not suffice
 */
export function chooseVictims(
  member: PoolMember,
  tags: readonly string[] | undefined,
  members: Iterable<PoolMember>,
  sleepLevel: 1 | 2,
): readonly PoolMember[] {
  let missingBytes = member.missingBytes(tags);
  const victims: PoolMember[] = [];
  const candidates = [...members].filter(
    (other) => other !== member && other.engine.status.state === "awake",
  );
  for (const victim of candidates.toSorted(compareUse)) {
    if (missingBytes <= 0) break;
    const sleepableBytes = victim.sleepableBytes(sleepLevel);
    if (sleepableBytes === 0) continue;
    victims.push(victim);
    missingBytes -= sleepableBytes;
  }
  if (missingBytes <= 0) return victims;
  throw new CamemError(
    "OUT_OF_DEVICE_MEMORY",
    `the engine ${member.engine.name} needs ${missingBytes} bytes more than all other engines can free; nothing has changed`,
    { sizeBytes: missingBytes },
  );
}

/** Orders idle members before busy ones, and by their last use. */
function compareUse(a: PoolMember, b: PoolMember): number {
  return Number(a.isBusy) - Number(b.isBusy) || a.lastUsedMs - b.lastUsedMs;
}

/** Puts the victims to sleep and wakes `member`. If that fails, wakes the victims again. */
export async function switchTo(
  member: PoolMember,
  victims: readonly PoolMember[],
  wakeOptions: EngineWakeOptions & { readonly signal: AbortSignal },
  options: EvictionOptions,
): Promise<EngineWakeResult> {
  const { sleepLevel: level, mode, drainDeadlineMs: deadlineMs } = options;
  const { signal } = wakeOptions;
  const evicted: PoolMember[] = [];
  try {
    for (const each of [member, ...victims]) each.isSwitching = true;
    for (const victim of victims) {
      await victim.engine.sleep({ level, mode, deadlineMs, signal, reason: "pool" });
      evicted.push(victim);
    }
    return await member.engine.wakeUp(wakeOptions);
  } catch (error) {
    throw await restore(evicted, error, options);
  } finally {
    for (const each of [member, ...victims]) each.isSwitching = false;
  }
}

/** Wakes evicted members again. Returns the error to report: `failure`, together with failures of these wake-ups. */
async function restore(
  evicted: readonly PoolMember[],
  failure: unknown,
  { closing, retryAfterSeconds }: EvictionOptions,
): Promise<unknown> {
  if (closing.aborted) return failure;
  const failures: unknown[] = [];
  for (const { engine } of evicted.toReversed())
    await engine.wakeUp({ reason: "pool" }).catch((error) => failures.push(error));
  if (failures.length === 0) return failure;
  return new CamemError(
    "ENGINE_UNAVAILABLE",
    "an engine could not be woken, nor could the engines that had made room for it; requests for them try again",
    { cause: new AggregateError([failure, ...failures]), retryAfterSeconds },
  );
}
