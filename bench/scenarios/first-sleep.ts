/** The first sleep after `prepare` against later sleeps, with a new allocator for each repetition. */

import { describeLayout, GiB, type Layout, pooled, quickBytes, segmentsOf } from "../layout.ts";
import { alternate, type Durations } from "../rounds.ts";
import type { Findings } from "../schema.ts";
import { type Context, Memory, Session } from "../session.ts";
import { compare, median, ratios, statistic } from "../statistics.ts";
import { timeTransition } from "../transition.ts";

const laterSleeps = 3;

async function prepareAndSleep(context: Context, layout: Layout): Promise<Durations> {
  await using session = new Session(context, { retain: "all" });
  const { allocator } = session;
  using _memory = new Memory(allocator, "weights", layout);
  const { durations } = await allocator.prepare({ level: 1 });
  const sleepMs: number[] = [];
  for (let index = 0; index <= laterSleeps; index++) {
    sleepMs.push((await timeTransition("sleep", () => allocator.sleep()))["sleep"] ?? Number.NaN);
    await allocator.wakeUp();
  }
  const [first = Number.NaN, ...later] = sleepMs;
  return { prepare: durations.totalMs, first, later: median(later) };
}

export async function firstSleep(context: Context): Promise<Findings> {
  const layout = pooled(context.quick ? quickBytes : GiB);
  const parts = { camem: () => prepareAndSleep(context, layout) };
  const measured = await alternate(parts, { rounds: context.quick ? 5 : 9 });
  const [firstMs, laterMs] = [measured.get("camem", "first"), measured.get("camem", "later")];
  const labels = {
    scenario: "first sleep",
    sizeBytes: layout.sizeBytes,
    segments: segmentsOf(layout),
    unit: "ms",
  } as const;
  return {
    figures: [
      {
        ...labels,
        case: "after prepare",
        operation: "sleep",
        value: statistic(firstMs),
        limit: compare("a repeated sleep", firstMs, laterMs),
      },
      {
        ...labels,
        case: "page-locking beforehand",
        operation: "prepare",
        value: statistic(measured.get("camem", "prepare")),
      },
    ],
    targets: [{ id: "first", measured: describeLayout(layout), value: statistic(ratios(laterMs, firstMs)) }],
    notes: [],
  };
}
