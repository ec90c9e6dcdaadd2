/** The first sleep after `prepare` against the ones that follow, each time in an allocator of its own. */

import { alternate } from "../rounds.ts";
import type { Findings } from "../schema.ts";
import {
  type Context,
  describeLayout,
  GiB,
  Memory,
  MiB,
  pooled,
  Session,
  timeTransition,
} from "../session.ts";
import { compare, median, ratios, statistic } from "../statistics.ts";

const repeated = 3;

async function oneAllocator(context: Context, sizeBytes: number) {
  await using session = new Session(context, { retain: "all" });
  const { allocator } = session;
  using _memory = new Memory(allocator, "weights", pooled(sizeBytes));
  const { durations } = await allocator.prepare({ level: 1 });
  const sleepMs: number[] = [];
  for (let index = 0; index <= repeated; index++) {
    sleepMs.push((await timeTransition("sleep", () => allocator.sleep()))["sleep"] ?? Number.NaN);
    await allocator.wakeUp();
  }
  const [first = Number.NaN, ...later] = sleepMs;
  return { prepare: durations.totalMs, first, repeated: median(later) };
}

export async function first(context: Context): Promise<Findings> {
  const layout = pooled(context.quick ? 256 * MiB : GiB);
  const parts = { camem: () => oneAllocator(context, layout.sizeBytes) };
  const measured = await alternate(parts, { rounds: context.quick ? 5 : 9 });
  const [firstMs, repeatedMs] = [measured.of("camem", "first"), measured.of("camem", "repeated")];
  const about = { scenario: "first sleep", sizeBytes: layout.sizeBytes, unit: "ms" } as const;
  const segments = layout.sizeBytes / layout.segmentBytes;
  return {
    figures: [
      {
        ...about,
        segments,
        case: "after prepare",
        operation: "sleep",
        value: statistic(firstMs),
        limit: compare("a repeated sleep", firstMs, repeatedMs),
      },
      {
        ...about,
        segments,
        case: "page-locking beforehand",
        operation: "prepare",
        value: statistic(measured.of("camem", "prepare")),
      },
    ],
    reached: [
      { id: "first", measured: describeLayout(layout), value: statistic(ratios(repeatedMs, firstMs)) },
    ],
    notes: [],
  };
}
