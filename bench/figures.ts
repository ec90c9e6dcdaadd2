/** Makes figures of what a scenario has measured. */

import type { Durations, Rounds } from "./rounds.ts";
import type { Comparison, Figure } from "./schema.ts";
import { type Layout, phasePrefix, segmentsOf } from "./session.ts";
import { statistic } from "./statistics.ts";

export type Operation = "sleep" | "wake";

/** A sleep or a wake-up, with what its time went to. */
export function transitionFigure(
  rounds: Rounds,
  part: string,
  operation: Operation,
  about: { readonly scenario: string; readonly case: string; readonly layout: Layout },
  comparisons: { readonly limit?: Comparison; readonly peers?: Comparison } = {},
): Figure {
  return {
    scenario: about.scenario,
    case: about.case,
    operation,
    sizeBytes: about.layout.sizeBytes,
    segments: segmentsOf(about.layout),
    unit: "ms",
    value: statistic(rounds.of(part, operation)),
    ...comparisons,
    phases: rounds.medians(part, phasePrefix(operation)),
  };
}

/** Several parts' durations as one's. */
export function together(...durations: readonly Durations[]): Durations {
  return Object.assign({}, ...durations);
}
