/**
 * Drives the shipped binary and the model with the same random events and compares the two after each. The seed, the number of
 * the event and the model determine the event. When a race has several legal outcomes the model adopts the actual one, so a run
 * that depends on timing may diverge only in some repetitions.
 */

import * as closing from "./close-events.ts";
import { Divergence, Harness } from "./harness.ts";
import type { Event } from "./memory-events.ts";
import * as memory from "./memory-events.ts";
import type { Mistake } from "./model.ts";
import * as overlap from "./overlap-events.ts";
import { Random } from "./random.ts";
import * as transitions from "./transition-events.ts";

export interface FuzzOptions {
  readonly seed: number;
  readonly events: number;
  /** When to stop early, in the time of `performance.now()`. */
  readonly deadlineMs?: number | undefined;
  readonly mistake?: Mistake | undefined;
}

export interface FuzzResult {
  readonly seed: number;
  readonly events: number;
  readonly counts: ReadonlyMap<string, number>;
  /** Outcomes of transitions that races and faults disturbed. */
  readonly outcomes: ReadonlyMap<string, number>;
  readonly divergence: { readonly message: string; readonly history: readonly string[] } | undefined;
}

/** Events with their name and weight. */
const events: readonly (readonly [string, number, Event])[] = [
  ["malloc", 10, memory.malloc],
  ["pool malloc", 12, memory.poolMalloc],
  ["my_malloc", 4, memory.nativeMalloc],
  ["my_malloc on a foreign thread", 4, memory.foreignMalloc],
  ["free", 12, memory.free],
  ["my_free", 3, memory.nativeFree],
  ["my_free on a foreign thread", 3, memory.foreignFree],
  ["free many", 1, memory.freeMany],
  ["write", 18, memory.write],
  ["fill", 3, memory.fill],
  ["define a tag", 2, memory.defineTag],
  ["mark a tag as dirty", 2, memory.markDirty],
  ["prepare", 2, transitions.prepare],
  ["enter a region", 2, memory.enterRegion],
  ["leave a region", 2, memory.leaveRegion],
  ["nested regions", 2, memory.nestedRegions],
  ["bad request", 2, memory.badRequest],
  ["sleep or wake", 10, transitions.plain],
  ["sleep or wake with a fault", 6, transitions.faulty],
  ["sleep or wake with several faults", 2, transitions.severelyFaulty],
  ["sleep or wake aborted", 4, transitions.abortedMidway],
  ["sleep or wake with a callback that throws", 1, transitions.callbackThrows],
  ["sleeps and wake-ups at once", 2, transitions.atOnce],
  ["calls while a transition runs", 6, overlap.overlapped],
  ["calls while a sleep waits for the device", 3, overlap.held],
  ["close and reopen", 0.3, closing.closeAndReopen],
];

const totalWeight = events.reduce((total, [, weight]) => total + weight, 0);

function pickEvent(random: Random): readonly [string, number, Event] {
  let left = (random.below(2 ** 30) / 2 ** 30) * totalWeight;
  for (const event of events) {
    left -= event[1];
    if (left < 0) return event;
  }
  throw new RangeError("the weights do not add up");
}

/** An event that takes longer hangs. */
const hangMs = 30_000;
const historyLength = 20;

async function withinTime(run: Promise<void> | void): Promise<void> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Divergence(`nothing has come back for ${hangMs} ms`)), hangMs);
  try {
    await Promise.race([run, promise]);
  } finally {
    clearTimeout(timer);
  }
}

function messageOf(error: unknown): string {
  if (error instanceof Divergence) return error.message;
  return error instanceof Error ? `unexpected: ${error.stack ?? error}` : `unexpected: ${error}`;
}

/** Runs one seed, from a fresh allocator to `close()`. */
export async function fuzz({ seed, events: count, deadlineMs, mistake }: FuzzOptions): Promise<FuzzResult> {
  const harness = new Harness(mistake);
  const history: string[] = [];
  const counts = new Map<string, number>();
  const result = (done: number, divergence?: FuzzResult["divergence"]) => ({
    seed,
    events: done,
    counts,
    outcomes: harness.notes,
    divergence,
  });
  let number = 0;
  try {
    await harness.open(new Random(seed, 0), (text) => history.push(`0 ${text}`));
    while (number < count && performance.now() < (deadlineMs ?? Number.POSITIVE_INFINITY)) {
      number++;
      const random = new Random(seed, number);
      const [name, , event] = pickEvent(random);
      const words: string[] = [];
      history.push(`${number} ${name}:`);
      const log = (word: string) => {
        words.push(word);
        history[history.length - 1] = `${number} ${name}: ${words.join(" ")}`;
      };
      if (history.length > historyLength) history.shift();
      await withinTime(event(harness, random, log));
      await harness.compareHostMemory();
      harness.compare(random);
      counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    await finish(harness);
    return result(number);
  } catch (error) {
    return result(number, { message: messageOf(error), history });
  } finally {
    harness.stop();
  }
}

async function finish(harness: Harness): Promise<void> {
  harness.compareContents();
  for (const region of harness.regions) await region.leave();
  await withinTime(harness.allocator.close());
  harness.expectNothingHeld();
}
