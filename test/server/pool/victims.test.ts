/** Every choice of victims in small cases, against a comparison of all choices. */

import { expect, test } from "bun:test";
import {
  type Candidate,
  chooseVictims,
  type SleepOption,
  type Victim,
} from "../../../src/server/pool/victims.ts";

interface Spec {
  /** Units on device 0 and on device 1. */
  readonly units: readonly [number, number];
  readonly isBusy: boolean;
  readonly canReload: boolean;
}

interface Named extends Candidate {
  readonly spec: Spec;
}

type Choice = readonly Victim<Named>[];

function candidateOf(spec: Spec, lastUsedMs: number): Named {
  const freed = new Map(spec.units.entries());
  const backupBytes = spec.units[0] + spec.units[1];
  const sleeps: SleepOption[] = [{ level: 1, isDeeper: false, freed, backupBytes }];
  if (spec.canReload) sleeps.push({ level: 2, isDeeper: true, freed, backupBytes: 0 });
  return { spec, isBusy: spec.isBusy, lastUsedMs, sleeps };
}

/** All ways to put some candidates to sleep. */
function allChoices([first, ...others]: readonly Named[]): Choice[] {
  if (first === undefined) return [[]];
  const rest = allChoices(others);
  return [
    ...rest,
    ...first.sleeps.flatMap((sleep) => rest.map((more) => [{ candidate: first, sleep }, ...more])),
  ];
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
const freedOn = (choice: Choice, device: number) =>
  sum(choice.map(({ sleep }) => sleep.freed.get(device) ?? 0));

function suffices(choice: Choice, missing: ReadonlyMap<number, number>, roomBytes: number): boolean {
  return (
    [...missing].every(([device, bytes]) => freedOn(choice, device) >= bytes) &&
    sum(choice.map(({ sleep }) => sleep.backupBytes)) <= roomBytes
  );
}

/** Digits of a number, so that one comparison suffices: deeper sleeps, busy engines, units, engines. */
function costOf(choice: Choice): number {
  const deeper = choice.filter(({ sleep }) => sleep.isDeeper).length;
  const busy = choice.filter(({ candidate }) => candidate.isBusy).length;
  return deeper * 1e6 + busy * 1e4 + (freedOn(choice, 0) + freedOn(choice, 1)) * 100 + choice.length;
}

/** True when a chosen engine could be replaced by an equal one that was used earlier. */
function ignoresUse(choice: Choice, candidates: readonly Named[]): boolean {
  const chosen = choice.map(({ candidate }) => candidate);
  return chosen.some(({ spec, lastUsedMs }) =>
    candidates.some(
      (other) => other.spec === spec && other.lastUsedMs < lastUsedMs && !chosen.includes(other),
    ),
  );
}

const specs: Spec[] = [];
for (const first of [0, 1, 2, 3])
  for (const second of [0, 1])
    for (const isBusy of [false, true])
      for (const canReload of [false, true]) specs.push({ units: [first, second], isBusy, canReload });

/** Every multiset of up to three engines. */
function* groups(): Generator<readonly Spec[]> {
  for (const [i, a] of specs.entries()) {
    yield [a];
    for (const [j, b] of specs.slice(i).entries()) {
      yield [a, b];
      for (const c of specs.slice(i + j)) yield [a, b, c];
    }
  }
}

test("chooseVictims() finds the cheapest choice in every small case", () => {
  let cases = 0;
  for (const group of groups()) {
    // The engine that comes last was used least recently.
    const candidates = group.map((spec, index) => candidateOf(spec, group.length - index));
    const choices = allChoices(candidates).toSorted((a, b) => costOf(a) - costOf(b));
    for (const needed of [1, 3, 5])
      for (const alsoNeeded of [0, 1])
        for (const roomBytes of [0, 3, Number.POSITIVE_INFINITY]) {
          const missing = new Map([[0, needed]]);
          if (alsoNeeded > 0) missing.set(1, alsoNeeded);
          const best = choices.find((choice) => suffices(choice, missing, roomBytes));
          const chosen = chooseVictims(missing, candidates, roomBytes);
          const isRight =
            best === undefined || chosen === undefined
              ? best === chosen
              : suffices(chosen, missing, roomBytes) && costOf(chosen) === costOf(best);
          if (!isRight || (chosen && roomBytes > 3 && ignoresUse(chosen, candidates)))
            throw new Error(JSON.stringify({ group, needed, alsoNeeded, roomBytes, chosen, best }));
          cases++;
        }
  }
  expect(cases).toBeGreaterThan(100_000);
});

test("chooseVictims() chooses among 40 engines without delay", () => {
  const candidates = Array.from({ length: 40 }, (_, index) =>
    candidateOf({ units: [1000 + ((index * 37) % 101), 0], isBusy: false, canReload: false }, index),
  );
  const startedMs = performance.now();
  const chosen = chooseVictims(new Map([[0, 20_000]]), candidates, Number.POSITIVE_INFINITY);
  expect(performance.now() - startedMs).toBeLessThan(1000);
  expect(chosen && freedOn(chosen, 0)).toBeGreaterThanOrEqual(20_000);
  expect(chosen?.length).toBeLessThanOrEqual(20);
});
