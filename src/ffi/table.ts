/** The shim's table of segments, whole or summed. */

import type { SharedExports } from "./exports.ts";
import type { SegmentName, SegmentSnapshot } from "./segments.ts";
import { check, firstResult, secondResult, takeFirst, takeSecond } from "./status.ts";
import { type Decoded, decode } from "./struct.ts";
import * as abi from "./symbols.gen.ts";

export type TagUsage = Decoded<typeof abi.TagUsage>;

/** The table that a plan was made for. */
export interface PlanBasis {
  /** The plan leaves newer segments alone. */
  readonly lastSegmentId: number;
  readonly version: number;
}

/** A table of ten thousand tags fits in. */
const keptBytes = 4 * 2 ** 20;

/** Reads tables of the shim, which say how much room they take. */
function tableReader() {
  /** Grows to a quarter more than the largest number of entries so far. */
  let capacity = 64;
  /** Kept, because the first touch of fresh memory takes longer than what the shim does. */
  let buffer = new Uint8Array(0);

  /** The entries that an export writes, each as `read` decodes it. The export puts their number into `firstResult`. */
  return <T>(
    entryBytes: number,
    fill: (buffer: Uint8Array, capacity: number) => number,
    read: (words: Uint32Array, at: number) => T,
  ): T[] => {
    while (true) {
      const sizeBytes = capacity * entryBytes;
      const bytes = buffer.length < sizeBytes ? new Uint8Array(sizeBytes) : buffer;
      if (bytes.length <= keptBytes) buffer = bytes;
      check("read the table of segments", () => fill(bytes, capacity));
      const count = takeFirst();
      const entryWords = entryBytes / Uint32Array.BYTES_PER_ELEMENT;
      const words = new Uint32Array(bytes.buffer);
      if (count <= capacity)
        return Array.from({ length: count }, (_, index) => read(words, index * entryWords));
      capacity = count + Math.ceil(count / 4);
    }
  };
}

/** The table of segments, whole or summed. */
export const tableCalls = (exports: () => SharedExports) => {
  const readTable = tableReader();

  return {
    /** The table's entry of a segment; undefined once the segment is gone. */
    segmentInfo({ address, segmentId }: SegmentName): SegmentSnapshot | undefined {
      const bytes = new Uint8Array(abi.SegmentInfo.sizeBytes);
      if (exports().camem_segment_info(address, segmentId, bytes) !== abi.Status.ok) return undefined;
      return decode(abi.SegmentInfo, bytes);
    },

    /** All segments in the order of their allocation. */
    snapshot(): SegmentSnapshot[] {
      return readTable(
        abi.SegmentInfo.sizeBytes,
        (buffer, capacity) => exports().camem_snapshot(buffer, capacity, firstResult),
        abi.readSegmentInfo,
      );
    },

    /** Sums for planning, of segments with ids up to `lastSegmentId`. */
    segmentGroups(lastSegmentId: number): {
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
    },

    /** Sums by tag, including tags without segments. */
    usage(): TagUsage[] {
      return readTable(
        abi.TagUsage.sizeBytes,
        (buffer, capacity) => exports().camem_usage(buffer, capacity, firstResult),
        abi.readTagUsage,
      );
    },

    /** The words that the process keeps for its tags, by number; 0 where none is set. */
    tagPolicies(): number[] {
      return readTable(
        8,
        (buffer, capacity) => exports().camem_tag_policies(buffer, capacity, firstResult),
        (words, at) => words[at] as number,
      );
    },
  };
};
