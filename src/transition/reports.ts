import type { SegmentTable } from "../memory/table.ts";
import {
  defaultLevel,
  type SleepLevel,
  type SleepSelection,
  type TreatmentOf,
} from "../policy/tag-policies.ts";
import { lostTagsOf, type Step, sizeBytesOf } from "./plan.ts";
import type { PlanResult, TransitionDurations } from "./progress.ts";

/** The result of a sleep. */
export interface SleepReport {
  /** The requested level; null with `offloadTags`. */
  readonly level: SleepLevel | null;
  /** Bytes whose content is kept off the device: on the host, in the spill folder or in a checkpoint. */
  readonly offloadedBytes: number;
  /** The part of `offloadedBytes` that was copied; the rest had an unchanged backup. */
  readonly copiedBytes: number;
  /** The part of `copiedBytes` in the spill folder: beyond the host budget, or because AscendCL refused to page-lock. */
  readonly spilledBytes: number;
  /** The part of `copiedBytes` in ordinary memory, because AscendCL refused to page-lock (`pageable`). Its copies are slower. */
  readonly pageableBytes: number;
  /** Bytes whose content is gone, including dropped backups. */
  readonly discardedBytes: number;
  /** Bytes still mapped on the device. */
  readonly keptBytes: number;
  /** Bytes of device memory given back. */
  readonly freedBytes: number;
  /** True when all selected memory was asleep before the call. An earlier, deeper sleep may have discarded content. */
  readonly alreadySleeping: boolean;
  /** Milliseconds of each phase. */
  readonly durations: TransitionDurations;
}

/** The result of a wake-up. */
export interface WakeReport {
  /** Bytes that have their content back. */
  readonly restoredBytes: number;
  /** Bytes mapped again without their content. */
  readonly remappedBytes: number;
  /** The part of `remappedBytes` that is zeroed; the rest has undefined content. */
  readonly zeroedBytes: number;
  /** The tags of remapped memory, whose content was lost: load it again before using it. */
  readonly lostTags: readonly string[];
  /** The tags that still have memory asleep. */
  readonly stillAsleep: readonly string[];
  /** True when all selected memory was awake before the call. */
  readonly alreadyAwake: boolean;
  /** Milliseconds of each phase. */
  readonly durations: TransitionDurations;
}

/** The result of a preparation. */
export interface PrepareReport {
  /**
   * Bytes of page-locked host memory that are free for the next sleep. Fewer than it needs where AscendCL refused more and
   * `pageable` or `spillDir` is set.
   */
  readonly preparedBytes: number;
  /** Milliseconds of each phase. */
  readonly durations: TransitionDurations;
}

/** The transition as it ran. */
export interface Executed extends PlanResult {
  readonly steps: readonly Step[];
}

export function sleepReport(
  { level, offloadTags }: SleepSelection,
  treatment: TreatmentOf,
  { steps, durations, pageableBytes, spilledBytes }: Executed,
  table: SegmentTable,
): SleepReport {
  const tags = table.tagsInUse();
  const copied = steps.filter((step) => !step.group.clean);
  return {
    level: offloadTags === undefined ? (level ?? defaultLevel) : null,
    offloadedBytes: sizeBytesOf(steps, "offload"),
    copiedBytes: sizeBytesOf(copied, "offload"),
    spilledBytes,
    pageableBytes,
    discardedBytes: sizeBytesOf(steps, "discard"),
    keptBytes: tags.reduce((sum, tag) => sum + tag.mappedBytes, 0),
    freedBytes: steps.reduce((sum, step) => sum + step.group.committedBytes, 0),
    alreadySleeping: steps.length === 0 && tags.some((tag) => treatment(tag.name).action !== "keep"),
    durations,
  };
}

export function wakeReport({ steps, durations }: Executed, table: SegmentTable): WakeReport {
  const asleep = table.tagsInUse().filter((tag) => tag.awakeSegments < tag.segments);
  return {
    restoredBytes: sizeBytesOf(steps, "restore"),
    remappedBytes: sizeBytesOf(steps, "remap"),
    zeroedBytes: sizeBytesOf(
      steps.filter(({ zero }) => zero),
      "remap",
    ),
    lostTags: lostTagsOf(steps),
    stillAsleep: asleep.map((tag) => tag.name),
    alreadyAwake: steps.length === 0,
    durations,
  };
}
