/** Throughput of camem's sleep and wake-up against the C copy loop of the same rounds. */

import { describeLayout, type Layout } from "./layout.ts";
import type { Rounds } from "./rounds.ts";
import type { TargetValue } from "./schema.ts";
import { ratios, statistic, sums } from "./statistics.ts";

const quietShare = 0.9;
const minQuietRounds = 3;

/**
 * Copy threads that share a core with other processes are no limit. So only quiet rounds count, in which each
 * thread had a core to itself. With too few quiet rounds, the threads' running time counts instead.
 */
export function throughputTarget(id: string, measured: Rounds, layout: Layout): TargetValue {
  const cycle = (part: "camem" | "copy") => sums(measured.get(part, "sleep"), measured.get(part, "wake"));
  const [camem, copy, running] = [cycle("camem"), cycle("copy"), measured.get("copy", "running")];
  const isQuiet = (_: number, round: number) => (running[round] ?? 0) >= quietShare;
  const quiet = running.filter(isQuiet).length;
  const hasEnough = quiet >= minQuietRounds;
  const values = hasEnough
    ? ratios(copy.filter(isQuiet), camem.filter(isQuiet))
    : ratios(copy, camem).map((ratio, round) => ratio * (running[round] ?? Number.NaN));
  const condition = hasEnough ? `${quiet} quiet rounds of ${running.length}` : "the machine was busy";
  return { id, measured: `${describeLayout(layout)}; ${condition}`, value: statistic(values) };
}
