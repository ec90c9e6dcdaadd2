/** The targets: ratios within one run, and whether each is met. */

import type { TargetRow, TargetValue } from "./schema.ts";

interface Target {
  readonly id: string;
  readonly figure: string;
  /** The bound of the median. */
  readonly bound: { readonly atLeast: number } | { readonly atMost: number };
  readonly unit: "×" | "ms" | "ns" | "%";
}

export const targets: readonly Target[] = [
  {
    id: "throughput",
    figure: "prepared level-1 sleep and wake-up, throughput against the C copy limit",
    bound: { atLeast: 0.95 },
    unit: "×",
  },
  {
    id: "small",
    figure: "prepared level-1 sleep or wake-up of one small segment, time beyond that of its copy",
    bound: { atMost: 0.1 },
    unit: "ms",
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
    id: "modelled first",
    figure:
      "first level-1 sleep without `prepare`, with the timing model, time against the longer of page-locking and copying alone",
    bound: { atMost: 1.15 },
    unit: "×",
  },
  {
    id: "modelled peers",
    figure:
      "first level-1 sleep without `prepare`, with the timing model, speed against the peers' algorithm",
    bound: { atLeast: 2 },
    unit: "×",
  },
  {
    id: "first token",
    figure:
      "time to the first token after an ordered wake-up, with the timing model, against the longer of copying and computing, and one layer",
    bound: { atMost: 1.1 },
    unit: "×",
  },
  {
    id: "loading",
    figure: "`loadSafetensors` from the page cache, throughput against a C loop that reads and copies",
    bound: { atLeast: 0.9 },
    unit: "×",
  },
  {
    id: "loading disk",
    figure: "`loadSafetensors` from the disk, throughput against that loop with O_DIRECT",
    bound: { atLeast: 0.9 },
    unit: "×",
  },
  {
    id: "loading delay",
    figure: "longest event-loop delay while a checkpoint of many tensors is loaded",
    bound: { atMost: 10 },
    unit: "ms",
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
  {
    id: "preload malloc",
    figure:
      "`aclrtMalloc` and `aclrtFree` under the library of `camem run`, time against the same calls without it",
    bound: { atMost: 1.5 },
    unit: "×",
  },
  {
    id: "preload call",
    figure: "what that library adds to a call while the program is awake",
    bound: { atMost: 50 },
    unit: "ns",
  },
  {
    id: "preload waste",
    figure: "device memory beyond the sizes that a program asks for under that library",
    bound: { atMost: 1 },
    unit: "%",
  },
  {
    id: "preload throughput",
    figure: "sleep and wake-up of a program under that library, throughput against the C copy limit",
    bound: { atLeast: 0.95 },
    unit: "×",
  },
  {
    id: "proxy",
    figure: "median answer through the proxy of `camem run`, time against a direct one",
    bound: { atMost: 1.1 },
    unit: "×",
  },
];

function rowOf({ id, figure, bound, unit }: Target, { measured, value }: TargetValue): TargetRow {
  const { median } = value;
  const [target, isMet] =
    "atLeast" in bound
      ? [`≥ ${bound.atLeast} ${unit}`, median >= bound.atLeast]
      : [`≤ ${bound.atMost} ${unit}`, median <= bound.atMost];
  return { id, figure, target, measured, unit, value, isMet };
}

/** @throws when no scenario measured a target */
export function targetRows(values: readonly TargetValue[]): TargetRow[] {
  return targets.map((target) => {
    const value = values.find(({ id }) => id === target.id);
    if (value === undefined) throw new Error(`no scenario measured "${target.figure}"`);
    return rowOf(target, value);
  });
}
