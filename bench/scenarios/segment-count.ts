/**
 * The cost of a segment by the number of segments: 2 MiB each, at level 2, so that no content moves. The
 * emulator keeps this memory out of RAM (CAMEM_EMULATOR_POOL=0), because 16,384 segments exceed the RAM of a
 * small machine.
 */

import { type Layout, smallSegmentBytes } from "../layout.ts";
import { alternate, type Durations, medianDurations } from "../rounds.ts";
import type { Findings } from "../schema.ts";
import { type Context, Memory, Session } from "../session.ts";
import { compare, ratios, statistic, sums } from "../statistics.ts";
import { mergeDurations, timeTransition, transitionFigure } from "../transition.ts";

const fewSegments = 16;
const minCycles = 2;

const layoutOf = (segments: number): Layout => ({
  sizeBytes: segments * smallSegmentBytes,
  segmentBytes: smallSegmentBytes,
});

/** Medians of as many cycles as fit into `budgetMs`, and of at least `minCycles`. */
async function repeat(budgetMs: number, cycle: () => Promise<Durations>): Promise<Durations> {
  const cycles: Durations[] = [];
  const startedMs = performance.now();
  while (cycles.length < minCycles || performance.now() - startedMs < budgetMs) cycles.push(await cycle());
  return medianDurations(cycles);
}

async function transitions({ allocator }: Session, segments: number, budgetMs: number): Promise<Durations> {
  using _memory = new Memory(allocator, "weights", layoutOf(segments));
  return await repeat(budgetMs, async () =>
    mergeDurations(
      await timeTransition("sleep", () => allocator.sleep({ level: 2 })),
      await timeTransition("wake", () => allocator.wakeUp()),
    ),
  );
}

async function calls({ loops }: Session, segments: number, budgetMs: number): Promise<Durations> {
  using set = loops.segments(segments, smallSegmentBytes);
  return await repeat(budgetMs, async () => ({ sleep: set.unmap(), wake: set.map() }));
}

function countsThatFit(session: Session, quick: boolean): number[] {
  const counts = quick ? [1, fewSegments, 256, 1024] : [1, fewSegments, 256, 4096, 16_384];
  const maxCount = session.allocator.memGetInfo().freeBytes / smallSegmentBytes;
  return counts.filter((count) => count <= maxCount);
}

export async function segmentCount(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const counts = countsThatFit(session, context.quick);
  const budgetMs = context.quick ? 50 : 200;
  const parts = Object.fromEntries(
    counts.flatMap((count) => [
      [`camem ${count}`, () => transitions(session, count, budgetMs)],
      [`calls ${count}`, () => calls(session, count, budgetMs)],
    ]),
  );
  const measured = await alternate(parts, { rounds: context.quick ? 5 : 9 });
  const figures = counts.flatMap((count) =>
    (["sleep", "wake"] as const).map((operation) => {
      const values = measured.get(`camem ${count}`, operation);
      const labels = { scenario: "counts", case: "level 2", layout: layoutOf(count) };
      return transitionFigure(measured, `camem ${count}`, operation, labels, {
        limit: compare("a C loop of the same calls", values, measured.get(`calls ${count}`, operation)),
      });
    }),
  );
  const perSegment = (count: number) =>
    sums(measured.get(`camem ${count}`, "sleep"), measured.get(`camem ${count}`, "wake")).map(
      (cycleMs) => cycleMs / count,
    );
  const maxCount = Math.max(...counts);
  const target = {
    id: "count",
    measured: `${maxCount.toLocaleString("en")} against ${fewSegments} × 2 MiB, level 2, sleep and wake-up`,
    value: statistic(ratios(perSegment(maxCount), perSegment(fewSegments))),
  };
  return { figures, targets: [target], notes: [] };
}
