/** What camem is to reach, as ratios within one run, and whether it does. */

import type { Reached, ReachRow } from "./schema.ts";

interface Reach {
  readonly id: string;
  readonly figure: string;
  /** The bound, and on which side of it the median is to be. */
  readonly bound: { readonly atLeast: number } | { readonly atMost: number };
  readonly unit: "×" | "ms";
}

export const reaches: readonly Reach[] = [
  {
    id: "throughput",
    figure: "prepared level-1 sleep and wake-up, throughput against the C copy limit",
    bound: { atLeast: 0.95 },
    unit: "×",
  },
  {
    id: "first",
    figure: "first sleep after `prepare`, speed against a repeated one",
    bound: { atLeast: 0.9 },
    unit: "×",
  },
  {
    id: "clean",
    figure: "clean sleep (immutable), time against the C loop that only unmaps and frees",
    bound: { atMost: 1.3 },
    unit: "×",
  },
  {
    id: "map",
    figure: "one map through the public API, time against the C loop",
    bound: { atMost: 1.5 },
    unit: "×",
  },
  {
    id: "unmap",
    figure: "one unmap through the public API, time against the C loop",
    bound: { atMost: 1.5 },
    unit: "×",
  },
  { id: "count", figure: "cost per segment with many against few", bound: { atMost: 1.3 }, unit: "×" },
  {
    id: "peers",
    figure: "first level-1 sleep after `prepare`, speed against the peers' algorithm",
    bound: { atLeast: 5 },
    unit: "×",
  },
  {
    id: "delay",
    figure: "longest event-loop delay during a sleep and a wake-up",
    bound: { atMost: 10 },
    unit: "ms",
  },
  {
    id: "host",
    figure: "peak extra host memory of a level-1 sleep less 64 MiB, against the offloaded bytes",
    bound: { atMost: 1.02 },
    unit: "×",
  },
];

function isReached({ bound }: Reach, median: number): boolean {
  return "atLeast" in bound ? median >= bound.atLeast : median <= bound.atMost;
}

function rowOf(reach: Reach, { measured, value }: Reached): ReachRow {
  const { id, figure, bound, unit } = reach;
  const text = "atLeast" in bound ? `≥ ${bound.atLeast} ${unit}` : `≤ ${bound.atMost} ${unit}`;
  return { id, figure, reach: text, measured, unit, value, passed: isReached(reach, value.median) };
}

/** @throws when a figure that has a reach was not measured */
export function reachTable(found: readonly Reached[]): ReachRow[] {
  return reaches.map((reach) => {
    const reached = found.find(({ id }) => id === reach.id);
    if (reached === undefined) throw new Error(`no scenario has measured "${reach.figure}"`);
    return rowOf(reach, reached);
  });
}
