/**
 * What a segment costs by how many there are, of 2 MiB each, at level 2: no content moves. On the emulator none of this memory
 * is resident (CAMEM_EMULATOR_POOL=0), because 16,384 segments are more than a small machine has.
 */

import { together, transitionFigure } from "../figures.ts";
import { alternate, type Durations } from "../rounds.ts";
import type { Findings } from "../schema.ts";
import { type Context, Memory, Session, smallSegmentBytes, timeTransition } from "../session.ts";
import { compare, median, ratios, statistic } from "../statistics.ts";

const few = 16;

const fewestCycles = 2;

/** The medians of the cycles that there is time for, and of a few at least. */
async function repeat(budgetMs: number, cycle: () => Promise<Durations>): Promise<Durations> {
  const cycles: Durations[] = [];
  const startedMs = performance.now();
  while (cycles.length < fewestCycles || performance.now() - startedMs < budgetMs) cycles.push(await cycle());
  const names = Object.keys(cycles[0] ?? {});
  return Object.fromEntries(
    names.map((name) => [name, median(cycles.map((durations) => durations[name] ?? Number.NaN))]),
  );
}

async function cycles({ allocator }: Session, count: number, budgetMs: number): Promise<Durations> {
  const layout = { sizeBytes: count * smallSegmentBytes, segmentBytes: smallSegmentBytes };
  using _memory = new Memory(allocator, "weights", layout);
  return await repeat(budgetMs, async () =>
    together(
      await timeTransition("sleep", () => allocator.sleep({ level: 2 })),
      await timeTransition("wake", () => allocator.wakeUp()),
    ),
  );
}

async function calls({ loops }: Session, count: number, budgetMs: number): Promise<Durations> {
  using segments = loops.segments(count, smallSegmentBytes);
  return await repeat(budgetMs, async () => ({ sleep: segments.unmap(), wake: segments.map() }));
}

/** The counts for which there is room on the device, with room to spare for others. */
function countsThatFit(session: Session, quick: boolean): number[] {
  const counts = quick ? [1, few, 256, 1024] : [1, few, 256, 4096, 16_384];
  const most = session.allocator.memGetInfo().freeBytes / smallSegmentBytes;
  return counts.filter((count) => count <= most);
}

export async function counts(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const all = countsThatFit(session, context.quick);
  const budgetMs = context.quick ? 50 : 200;
  const parts = Object.fromEntries(
    all.flatMap((count) => [
      [`camem ${count}`, () => cycles(session, count, budgetMs)],
      [`calls ${count}`, () => calls(session, count, budgetMs)],
    ]),
  );
  const measured = await alternate(parts, { rounds: context.quick ? 5 : 9 });
  const figures = all.flatMap((count) => {
    const layout = { sizeBytes: count * smallSegmentBytes, segmentBytes: smallSegmentBytes };
    return (["sleep", "wake"] as const).map((operation) => {
      const values = measured.of(`camem ${count}`, operation);
      const about = { scenario: "counts", case: "level 2", layout };
      return transitionFigure(measured, `camem ${count}`, operation, about, {
        limit: compare("a C loop of the same calls", values, measured.of(`calls ${count}`, operation)),
      });
    });
  });
  const perSegment = (count: number) => {
    const [slept, woken] = [measured.of(`camem ${count}`, "sleep"), measured.of(`camem ${count}`, "wake")];
    return slept.map((sleepMs, round) => (sleepMs + (woken[round] ?? Number.NaN)) / count);
  };
  const most = Math.max(...all);
  const reached = {
    id: "count",
    measured: `${most.toLocaleString("en")} against ${few} × 2 MiB, level 2, sleep and wake-up`,
    value: statistic(ratios(perSegment(most), perSegment(few))),
  };
  return { figures, reached: [reached], notes: [] };
}
