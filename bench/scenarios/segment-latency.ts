/** Allocating and freeing one segment through the public API, against the same AscendCL calls in a C loop. */

import type { CaMemAllocator } from "camem";
import { smallSegmentBytes } from "../layout.ts";
import { alternate, type Durations } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import { type Context, Session } from "../session.ts";
import { compare, ratios, statistic } from "../statistics.ts";

const batch = 32;

/** Mean microseconds of a malloc and of a free over one batch. */
function mallocAndFree(allocator: CaMemAllocator): Durations {
  let mapMs = 0;
  let unmapMs = 0;
  for (let index = 0; index < batch; index++) {
    const startedMs = performance.now();
    const buffer = allocator.malloc(smallSegmentBytes, { tag: "weights" });
    const mappedMs = performance.now();
    buffer.free();
    mapMs += mappedMs - startedMs;
    unmapMs += performance.now() - mappedMs;
  }
  return { map: (mapMs * 1000) / batch, unmap: (unmapMs * 1000) / batch };
}

export async function segmentLatency(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const { allocator, loops } = session;
  const parts = {
    camem: () => mallocAndFree(allocator),
    calls: () => {
      const { mapMs, unmapMs } = loops.latency(smallSegmentBytes, batch);
      return { map: mapMs * 1000, unmap: unmapMs * 1000 };
    },
  };
  const measured = await alternate(parts, { rounds: context.quick ? 9 : 25, repetitions: 16 });
  const operations = ["map", "unmap"] as const;
  const figures = operations.map((operation): Figure => {
    const values = measured.get("camem", operation);
    return {
      scenario: "latency",
      case: operation === "map" ? "malloc" : "free",
      operation,
      sizeBytes: smallSegmentBytes,
      segments: 1,
      unit: "µs",
      value: statistic(values),
      limit: compare("the same calls in a C loop", values, measured.get("calls", operation)),
    };
  });
  const targets = operations.map((operation) => ({
    id: operation,
    measured: "2 MiB",
    value: statistic(ratios(measured.get("camem", operation), measured.get("calls", operation))),
  }));
  return { figures, targets, notes: [] };
}
