/** One segment through the public API against the same AscendCL calls in a C loop. */

import type { CaMemAllocator } from "camem";
import { alternate, type Durations } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import { type Context, Session, smallSegmentBytes } from "../session.ts";
import { compare, ratios, statistic } from "../statistics.ts";

const batch = 32;

/** Microseconds of a malloc and of a free, on average over a batch. */
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

export async function latency(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const { allocator, loops } = session;
  const parts = {
    camem: () => mallocAndFree(allocator),
    calls: () => {
      const { mapMs, unmapMs } = loops.latency(smallSegmentBytes, batch);
      return { map: mapMs * 1000, unmap: unmapMs * 1000 };
    },
  };
  const rounds = await alternate(parts, { rounds: context.quick ? 9 : 25, repetitions: 16 });
  const figure = (operation: "map" | "unmap"): Figure => ({
    scenario: "latency",
    case: operation === "map" ? "malloc" : "free",
    operation,
    sizeBytes: smallSegmentBytes,
    segments: 1,
    unit: "µs",
    value: statistic(rounds.of("camem", operation)),
    limit: compare(
      "the same calls in a C loop",
      rounds.of("camem", operation),
      rounds.of("calls", operation),
    ),
  });
  const reached = (["map", "unmap"] as const).map((operation) => ({
    id: operation,
    measured: "2 MiB",
    value: statistic(ratios(rounds.of("camem", operation), rounds.of("calls", operation))),
  }));
  return { figures: [figure("map"), figure("unmap")], reached, notes: [] };
}
