/** Compares a run of the benchmark with an earlier one. */

import { readFileSync } from "node:fs";
import { Value } from "typebox/value";
import { messageOf } from "../src/errors.ts";
import { type Figure, Results, type Statistic } from "./schema.ts";

/**
 * A figure that both runs have. Its values are ratios to its limit, or else to the peers, where it has one of these, so
 * that machines may differ.
 */
export interface ComparedFigure {
  readonly figure: Figure;
  /** What the values are divided by; undefined where they have the figure's unit. */
  readonly reference: "limit" | "peers" | undefined;
  readonly before: Statistic;
  readonly now: Statistic;
  /** The median of now, in relation to the earlier one. */
  readonly factor: number;
}

const keyOf = ({ scenario, case: name, operation, sizeBytes, segments }: Figure) =>
  JSON.stringify([scenario, name, operation, sizeBytes, segments]);

function referenceOf({ limit, peers }: Figure): ComparedFigure["reference"] {
  if (limit !== undefined) return "limit";
  return peers === undefined ? undefined : "peers";
}

/** The figures that are worse by more than `beyond`, by more than the spreads of both runs explain, the worst first. */
export function worseFigures(now: Results, before: Results, beyond: number): ComparedFigure[] {
  const earlier = new Map(before.figures.map((figure) => [keyOf(figure), figure]));
  return now.figures
    .flatMap((figure): ComparedFigure[] => {
      const other = earlier.get(keyOf(figure));
      if (other === undefined) return [];
      const reference = referenceOf(figure) === referenceOf(other) ? referenceOf(figure) : undefined;
      const comparedOf = (one: Figure) => (reference && one[reference]?.ratio) ?? one.value;
      const [late, early] = [comparedOf(figure), comparedOf(other)];
      return [{ figure, reference, before: early, now: late, factor: late.median / early.median }];
    })
    .filter(({ factor, ...both }) => factor > beyond && both.now.p25 > both.before.p75)
    .toSorted((one, other) => other.factor - one.factor);
}

/**
 * Reads the results of an earlier run.
 *
 * @throws TypeError for what is none, or is of the other kind of run
 */
export function readResults(path: string, quick: boolean): Results {
  const results: unknown = parse(path);
  if (!Value.Check(Results, results)) throw new TypeError(`${path} has no results of this benchmark`);
  if (results.quick === quick) return results;
  const [kind, option] = results.quick ? ["a quick run", "add --quick"] : ["a full run", "leave --quick out"];
  throw new TypeError(`${path} has the results of ${kind}; ${option}`);
}

function parse(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new TypeError(`cannot read ${path}: ${messageOf(error)}`);
  }
}
