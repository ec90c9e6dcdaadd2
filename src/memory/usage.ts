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
  /** Ordinary memory that holds backups, where AscendCL refused to page-lock (`pageable`). */
  readonly pageableBytes: number;
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

/** Host memory, in bytes. */
export interface HostUsage {
  /** Page-locked memory: backups, prepared memory, retained memory and staging. */
  readonly pageLockedBytes: number;
  /** The part that nothing uses. */
  readonly freeBytes: number;
  /** The part of `freeBytes` that `prepare` took for the next sleep; the `retain` option keeps the rest. */
  readonly preparedBytes: number;
  /**
   * The part that is kept to copy through, because AscendCL refused to page-lock: a wake-up of memory whose backups are not
   * page-locked needs it.
   */
  readonly stagingBytes: number;
  /** Ordinary memory that holds backups, where AscendCL refused to page-lock (`pageable`). */
  readonly pageableBytes: number;
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
      const { mappedBytes, hostBytes, pageableBytes, spilledBytes, checkpointBytes, discardedBytes } = tag;
      const backups = { hostBytes, pageableBytes, spilledBytes, checkpointBytes };
      const { name, segments } = tag;
      return [name, { mappedBytes, ...backups, discardedBytes, segments, state: stateOf(tag) }];
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
  const { heldBytes, freeBytes, keptStagingBytes, pageableBytes } = shim.hostInfo();
  const lockedBytes = shim.usage().reduce((sum, usage) => sum + usage.hostBytes, 0);
  return {
    pageLockedBytes: heldBytes,
    freeBytes,
    preparedBytes: preparedBytes(shim),
    stagingBytes: keptStagingBytes,
    pageableBytes,
    budget: budgets.now(lockedBytes + pageableBytes),
  };
}
