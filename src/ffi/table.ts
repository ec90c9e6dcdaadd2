/** The shim's table of segments, whole or summed. */

import { exports } from "./library.ts";
import type { SegmentSnapshot } from "./segments.ts";
import { check, firstResult, secondResult, takeFirst, takeSecond } from "./status.ts";
import type { Decoded } from "./struct.ts";
import * as abi from "./symbols.gen.ts";

export type TagUsage = Decoded<typeof abi.TagUsage>;

/** Grows to a quarter more than the largest number of entries so far. */
let tableCapacity = 64;

/** The entries that an export writes, each as `read` decodes it. The export puts their number into `firstResult`. */
function readTable<T>(
  entryBytes: number,
  fill: (buffer: Uint8Array, capacity: number) => number,
  read: (words: Uint32Array, at: number) => T,
): T[] {
  while (true) {
    const capacity = tableCapacity;
    const bytes = new Uint8Array(capacity * entryBytes);
    check("read the table of segments", () => fill(bytes, capacity));
    const count = takeFirst();
    const entryWords = entryBytes / Uint32Array.BYTES_PER_ELEMENT;
    const words = new Uint32Array(bytes.buffer);
    if (count <= capacity)
      return Array.from({ length: count }, (_, index) => read(words, index * entryWords));
    tableCapacity = count + Math.ceil(count / 4);
  }
}

/** All segments in the order of their allocation. */
export function snapshot(): SegmentSnapshot[] {
  return readTable(
    abi.SegmentInfo.sizeBytes,
    (buffer, capacity) => exports().camem_snapshot(buffer, capacity, firstResult),
    abi.readSegmentInfo,
  );
}

/** The table that a plan was made for. */
export interface PlanBasis {
  /** The plan leaves newer segments alone. */
  readonly lastSegmentId: number;
  readonly version: number;
}

/** Sums for planning, of segments with ids up to `lastSegmentId`. */
export function segmentGroups(lastSegmentId: number): {
  groups: ReturnType<typeof abi.readSegmentGroup>[];
  version: number;
} {
  const groups = readTable(
    abi.SegmentGroup.sizeBytes,
    (buffer, capacity) =>
      exports().camem_segment_groups(lastSegmentId, buffer, capacity, firstResult, secondResult),
    abi.readSegmentGroup,
  );
  return { groups, version: takeSecond() };
}

/** Sums by tag, including tags without segments. */
export function usage(): TagUsage[] {
  return readTable(
    abi.TagUsage.sizeBytes,
    (buffer, capacity) => exports().camem_usage(buffer, capacity, firstResult),
    abi.readTagUsage,
  );
}

/** The words that the process keeps for its tags, by number; 0 where none is set. */
export function tagPolicies(): number[] {
  return readTable(
    8,
    (buffer, capacity) => exports().camem_tag_policies(buffer, capacity, firstResult),
    (words, at) => words[at] as number,
  );
}
