/** Medians, quartiles and ratios over rounds. */

import type { Comparison, Statistic } from "./schema.ts";

/** Interpolates linearly between the two nearest values. */
function quantile(sorted: readonly number[], fraction: number): number {
  const position = (sorted.length - 1) * fraction;
  const low = sorted[Math.floor(position)];
  const high = sorted[Math.ceil(position)];
  if (low === undefined || high === undefined) throw new TypeError("a statistic needs at least one value");
  return low + (high - low) * (position - Math.floor(position));
}

export function statistic(values: readonly number[]): Statistic {
  const sorted = values.toSorted((a, b) => a - b);
  return {
    median: quantile(sorted, 0.5),
    p25: quantile(sorted, 0.25),
    p75: quantile(sorted, 0.75),
    rounds: values.length,
  };
}

export function median(values: readonly number[]): number {
  return statistic(values).median;
}

/** `values` divided by `others`, round by round: noise that lasts longer than a round cancels out. */
export function ratios(values: readonly number[], others: readonly number[]): number[] {
  if (values.length !== others.length) throw new TypeError("both series need the same rounds");
  return values.map((value, round) => value / (others[round] ?? Number.NaN));
}

export function compare(what: string, values: readonly number[], others: readonly number[]): Comparison {
  return { what, value: statistic(others), ratio: statistic(ratios(values, others)) };
}

/** The sum of several series, round by round. */
export function sums(first: readonly number[], ...others: readonly (readonly number[])[]): number[] {
  return first.map((value, round) =>
    others.reduce((sum, series) => sum + (series[round] ?? Number.NaN), value),
  );
}
