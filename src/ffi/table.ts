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

/** The table of segments, whole or summed. */
export const tableCalls = (exports: () => SharedExports) => {
  /** Grows to a quarter more than the largest number of entries so far. */
  let tableCapacity = 64;

  /** The entries that an export writes, whose number it puts into `firstResult`. */
  function readTable(entryBytes: number, fill: (buffer: Uint8Array, capacity: number) => number): Uint8Array {
    while (true) {
      const capacity = tableCapacity;
      const bytes = new Uint8Array(capacity * entryBytes);
      check("read the table of segments", () => fill(bytes, capacity));
      const count = takeFirst();
      if (count <= capacity) return bytes.subarray(0, count * entryBytes);
      tableCapacity = count + Math.ceil(count / 4);
    }
  }

  return {
    /** The table's entry of a segment; undefined once the segment is gone. */
    segmentInfo({ address, segmentId }: SegmentName): SegmentSnapshot | undefined {
      const bytes = new Uint8Array(abi.SegmentInfo.sizeBytes);
      if (exports().camem_segment_info(address, segmentId, bytes) !== abi.Status.ok) return undefined;
      return decode(abi.SegmentInfo, bytes);
    },

    /** All segments in the order of their allocation. */
    snapshot(): SegmentSnapshot[] {
      const size = abi.SegmentInfo.sizeBytes;
      const bytes = readTable(size, (buffer, capacity) =>
        exports().camem_snapshot(buffer, capacity, firstResult),
      );
      return Array.from({ length: bytes.length / size }, (_, index) =>
        decode(abi.SegmentInfo, bytes, index * size),
      );
    },

    /** Sums for planning, of segments with ids up to `lastSegmentId`. */
    segmentGroups(lastSegmentId: number): {
      groups: ReturnType<typeof abi.readSegmentGroup>[];
      version: number;
    } {
      const size = abi.SegmentGroup.sizeBytes;
      const bytes = readTable(size, (buffer, capacity) =>
        exports().camem_segment_groups(lastSegmentId, buffer, capacity, firstResult, secondResult),
      );
      const words = new Uint32Array(bytes.buffer, 0, bytes.length / Uint32Array.BYTES_PER_ELEMENT);
      const groups: ReturnType<typeof abi.readSegmentGroup>[] = [];
      for (let at = 0; at < words.length; at += size / Uint32Array.BYTES_PER_ELEMENT)
        groups.push(abi.readSegmentGroup(words, at));
      return { groups, version: takeSecond() };
    },

    /** Sums by tag, including tags without segments. */
    usage(): TagUsage[] {
      const size = abi.TagUsage.sizeBytes;
      const bytes = readTable(size, (buffer, capacity) =>
        exports().camem_usage(buffer, capacity, firstResult),
      );
      return Array.from({ length: bytes.length / size }, (_, index) =>
        decode(abi.TagUsage, bytes, index * size),
      );
    },
  };
};
