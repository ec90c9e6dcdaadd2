/** Times a sleep or a wake-up with its phases, and turns the rounds into a figure. */

import type { TransitionDurations } from "camem";
import { GiB, type Layout, segmentsOf } from "./layout.ts";
import type { HostMemory } from "./loops.ts";
import type { Durations, Rounds } from "./rounds.ts";
import type { Comparison, Figure } from "./schema.ts";
import { statistic } from "./statistics.ts";

export type Operation = "sleep" | "wake";

/** Prefix of the phases of an operation among the durations of a round. */
const phasePrefix = (operation: Operation) => `${operation} phase `;

const phaseNames = {
  waitingMs: "waiting",
  preparingMs: "preparing",
  mappingMs: "mapping",
  copyingMs: "copying",
  verifyingMs: "verifying",
  releasingMs: "releasing",
} as const satisfies Partial<Record<keyof TransitionDurations, string>>;

/**
 * Durations of one transition and its phases, in milliseconds. Phase `starting` lasts until the shim's thread
 * runs the plan. Phase `outside` is the time before the shim has the plan and after the plan has ended.
 */
export async function timeTransition(
  operation: Operation,
  run: () => Promise<{ readonly durations: TransitionDurations }>,
): Promise<Durations> {
  const startedMs = performance.now();
  const { durations } = await run();
  const tookMs = performance.now() - startedMs;
  const prefix = phasePrefix(operation);
  const keys = Object.keys(phaseNames) as (keyof typeof phaseNames)[];
  const phasesMs = keys.reduce((sum, key) => sum + durations[key], 0);
  return {
    [operation]: tookMs,
    [`${prefix}starting`]: Math.max(0, durations.totalMs - phasesMs),
    ...Object.fromEntries(keys.map((key) => [`${prefix}${phaseNames[key]}`, durations[key]])),
    [`${prefix}outside`]: tookMs - durations.totalMs,
  };
}

export function mergeDurations(...durations: readonly Durations[]): Durations {
  return Object.assign({}, ...durations);
}

/** Host memory of the C copy loop. A larger copy wraps around to its start. */
export const limitHostBytes = GiB;

/** Copies both ways with the C loop. `running` is the smaller running share of the two copies. */
export function copyBothWays(host: HostMemory, ranges: BigUint64Array): Durations {
  const sleep = host.copyToHost(ranges);
  const sleepRunningShare = host.runningShare;
  const wake = host.copyToDevice(ranges);
  return { sleep, wake, running: Math.min(sleepRunningShare, host.runningShare) };
}

/** Names of the C loops that transitions are compared with. */
export const limits = {
  copy: "a C copy loop with as many threads",
  unmap: "a C loop that only unmaps and frees",
  map: "a C loop that only allocates and maps",
} as const;

export interface FigureLabels {
  readonly scenario: string;
  readonly case: string;
  readonly layout: Layout;
}

export function transitionFigure(
  rounds: Rounds,
  part: string,
  operation: Operation,
  { layout, ...labels }: FigureLabels,
  comparisons: { readonly limit?: Comparison; readonly peers?: Comparison } = {},
): Figure {
  return {
    ...labels,
    operation,
    sizeBytes: layout.sizeBytes,
    segments: segmentsOf(layout),
    unit: "ms",
    value: statistic(rounds.get(part, operation)),
    ...comparisons,
    phases: rounds.medians(part, phasePrefix(operation)),
  };
}
