/** Measures parts in alternation, so that other load on the machine affects all parts alike. */

import { Bench } from "tinybench";
import { median } from "./statistics.ts";

/** Measurements of one repetition, by name. */
export type Durations = Readonly<Record<string, number>>;
export type Part = () => Promise<Durations> | Durations;

/** One value for each round, part and name: the median of the round's repetitions. */
export class Rounds {
  readonly #values = new Map<string, number[]>();

  add(part: string, repetitions: readonly Durations[]): void {
    for (const [name, value] of Object.entries(medianDurations(repetitions))) {
      const key = `${part} ${name}`;
      const values = this.#values.get(key) ?? [];
      values.push(value);
      this.#values.set(key, values);
    }
  }

  find(part: string, name: string): number[] | undefined {
    return this.#values.get(`${part} ${name}`);
  }

  /** @throws when the part did not measure this name */
  get(part: string, name: string): number[] {
    const values = this.find(part, name);
    if (values === undefined) throw new TypeError(`${part} measured no ${name}`);
    return values;
  }

  /** Medians over the rounds of a part's names that start with `prefix`, by the rest of the name. */
  medians(part: string, prefix: string): Record<string, number> {
    const start = `${part} ${prefix}`;
    const entries = [...this.#values].filter(([key]) => key.startsWith(start));
    return Object.fromEntries(entries.map(([key, values]) => [key.slice(start.length), median(values)]));
  }
}

export function medianDurations(repetitions: readonly Durations[]): Durations {
  const names = Object.keys(repetitions[0] ?? {});
  const valuesOf = (name: string) => repetitions.map((durations) => durations[name] ?? Number.NaN);
  return Object.fromEntries(names.map((name) => [name, median(valuesOf(name))]));
}

export interface RoundsOptions {
  readonly rounds: number;
  readonly repetitions?: number;
  /** By default true. */
  readonly warmUp?: boolean;
  /** Earlier rounds of the same parts; new rounds are added to them. */
  readonly into?: Rounds;
}

/**
 * Runs the parts one after the other, in reverse order every second round. Unless `warmUp` is false, one
 * repetition of each part warms up before the first round.
 */
export async function alternate<Name extends string>(
  parts: Readonly<Record<Name, Part>>,
  { rounds, repetitions = 1, warmUp = true, into: result = new Rounds() }: RoundsOptions,
): Promise<Rounds> {
  const names = Object.keys(parts) as Name[];
  for (let round = 0; round < rounds; round++) {
    const bench = new Bench({
      time: 0,
      iterations: repetitions,
      warmup: warmUp && round === 0,
      warmupTime: 0,
      warmupIterations: 1,
      throws: true,
    });
    const measured = new Map(names.map((name) => [name, [] as Durations[]]));
    for (const name of round % 2 === 0 ? names : names.toReversed())
      addTask(bench, name, parts[name], measured.get(name) ?? []);
    await bench.run();
    for (const [name, repeated] of measured) result.add(name, repeated);
  }
  return result;
}

function addTask(bench: Bench, name: string, part: Part, measured: Durations[]): void {
  const task = async () => {
    measured.push(await part());
  };
  // Runs between warm-up and measurement, and drops the results of the warm-up.
  const beforeAll = () => void measured.splice(0);
  bench.add(name, task, { async: true, beforeAll });
}

/** Every size is measured once in each pass, because the machine's speed changes over minutes. */
export const passes = 3;

/** Rounds of several measurements, by name. */
export class RoundsByName {
  readonly #rounds = new Map<string, Rounds>();

  get rounds(): Rounds[] {
    return [...this.#rounds.values()];
  }

  getOrCreate(name: string): Rounds {
    const rounds = this.#rounds.get(name) ?? new Rounds();
    this.#rounds.set(name, rounds);
    return rounds;
  }
}
