import type * as native from "../ffi/index.ts";
import { recordByTag } from "../policy/tag-names.ts";
import type { HostBudget, HostBudgets } from "./host-budget.ts";
import type { SegmentTable } from "./table.ts";

/** The memory of one tag. Sizes are bytes of whole segments. */
export interface TagUsage {
  /** Device memory. */
  readonly mappedBytes: number;
  /** Page-locked host memory that holds backups, including backups of immutable memory that is awake. */
  readonly hostBytes: number;
  /** Backups in the spill folder. */
  readonly spilledBytes: number;
  /** Content whose backup is the checkpoint that it was loaded from. */
  readonly checkpointBytes: number;
  /** Address space without content. */
  readonly discardedBytes: number;
  /** The number of segments. */
  readonly segments: number;
  /** `partial` while some memory of the tag is awake and some is asleep. */
  readonly state: "awake" | "asleep" | "partial";
}

/** Page-locked host memory, in bytes. */
export interface HostUsage {
  /** All of it: backups, prepared memory and retained memory. */
  readonly pageLockedBytes: number;
  /** The part without backups. */
  readonly freeBytes: number;
  /** The part of `freeBytes` that `prepare` took for the next sleep; the `retain` option keeps the rest. */
  readonly preparedBytes: number;
  /** The host budget at this moment. */
  readonly budget: HostBudget;
}

function stateOf({ awakeSegments, segments }: native.TagUsage): TagUsage["state"] {
  if (awakeSegments === segments) return "awake";
  return awakeSegments === 0 ? "asleep" : "partial";
}

/** The usage of every tag that has segments. */
export function usageByTag(table: SegmentTable): Record<string, TagUsage> {
  return recordByTag(
    table.tagsInUse().map((tag) => {
      const { name, mappedBytes, hostBytes, spilledBytes, checkpointBytes, discardedBytes, segments } = tag;
      const state = stateOf(tag);
      return [
        name,
        { mappedBytes, hostBytes, spilledBytes, checkpointBytes, discardedBytes, segments, state },
      ];
    }),
  );
}

/** Bytes of a tag's segments, awake or asleep; without a tag, of all segments. */
export function segmentBytesOf(table: SegmentTable, tag: string | undefined): number {
  return table
    .tagsInUse()
    .reduce((sum, usage) => sum + (tag === undefined || usage.name === tag ? usage.sizeBytes : 0), 0);
}

/** Bytes of page-locked memory that are kept for the next sleep. */
export function preparedBytes(shim: native.Native): number {
  const { freeBytes, reservedBytes } = shim.hostInfo();
  return Math.min(reservedBytes, freeBytes);
}

export function hostUsage(shim: native.Native, budgets: HostBudgets): HostUsage {
  const { heldBytes, freeBytes } = shim.hostInfo();
  const backupBytes = shim.usage().reduce((sum, usage) => sum + usage.hostBytes, 0);
  return {
    pageLockedBytes: heldBytes,
    freeBytes,
    preparedBytes: preparedBytes(shim),
    budget: budgets.now(backupBytes),
  };
}
