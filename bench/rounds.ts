/** Measures things that are to be compared in turns, so that what else the machine does hits all of them. */

import { Bench } from "tinybench";
import { median } from "./statistics.ts";

/** What one repetition took, by name. */
export type Durations = Readonly<Record<string, number>>;
export type Part = () => Promise<Durations> | Durations;

/** One value for each round and name: the median of the round's repetitions. */
export class Rounds {
  readonly #values = new Map<string, number[]>();

  add(part: string, repetitions: readonly Durations[]): void {
    for (const name of Object.keys(repetitions[0] ?? {})) {
      const key = `${part} ${name}`;
      const values = this.#values.get(key) ?? [];
      values.push(median(repetitions.map((durations) => durations[name] ?? Number.NaN)));
      this.#values.set(key, values);
    }
  }

  find(part: string, name: string): number[] | undefined {
    return this.#values.get(`${part} ${name}`);
  }

  of(part: string, name: string): number[] {
    const values = this.find(part, name);
    if (values === undefined) throw new TypeError(`${part} measured no ${name}`);
    return values;
  }

  /** What a part measured under names with this prefix, which is cut off: medians over the rounds. */
  medians(part: string, prefix: string): Record<string, number> {
    const start = `${part} ${prefix}`;
    const own = [...this.#values].filter(([key]) => key.startsWith(start));
    return Object.fromEntries(own.map(([key, values]) => [key.slice(start.length), median(values)]));
  }
}

export interface RoundsOptions {
  readonly rounds: number;
  readonly repetitions?: number;
  /** Earlier rounds of the same parts, to which these are added. */
  readonly into?: Rounds;
}

/** Runs the parts one after the other, forwards and backwards in turns, after one repetition of each to warm up. */
export async function alternate<Name extends string>(
  parts: Readonly<Record<Name, Part>>,
  { rounds, repetitions = 1, into: result = new Rounds() }: RoundsOptions,
): Promise<Rounds> {
  const names = Object.keys(parts) as Name[];
  for (let round = 0; round < rounds; round++) {
    const bench = new Bench({
      time: 0,
      iterations: repetitions,
      warmup: round === 0,
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

/** Rounds of many measurements, by name. */
export class RoundsByName {
  readonly #rounds = new Map<string, Rounds>();

  get rounds(): Rounds[] {
    return [...this.#rounds.values()];
  }

  of(name: string): Rounds {
    const known = this.#rounds.get(name) ?? new Rounds();
    this.#rounds.set(name, known);
    return known;
  }
}

function addTask(bench: Bench, name: string, part: Part, measured: Durations[]): void {
  const task = async () => {
    measured.push(await part());
  };
  // What was measured to warm up does not count.
  const beforeAll = () => void measured.splice(0);
  bench.add(name, task, { async: true, beforeAll });
}
