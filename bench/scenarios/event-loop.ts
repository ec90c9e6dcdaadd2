/** The longest delay of the event loop while memory sleeps and wakes. */

import { DelayMonitor } from "../delay.ts";
import { describeLayout, GiB, quickBytes, segmentsOf, smallSegmentBytes } from "../layout.ts";
import { CopyBy, rangesOf } from "../loops.ts";
import { alternate, type Part } from "../rounds.ts";
import type { Findings } from "../schema.ts";
import { type Context, Memory, Session } from "../session.ts";
import { compare, statistic } from "../statistics.ts";
import { limitHostBytes } from "../transition.ts";

export async function eventLoop(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "all" });
  const { allocator, loops } = session;
  const sizeBytes = context.quick ? quickBytes : 2 * GiB;
  const layout = { sizeBytes, segmentBytes: smallSegmentBytes };
  using memory = new Memory(allocator, "weights", layout);
  using host = loops.host(Math.min(limitHostBytes, sizeBytes));
  const ranges = rangesOf(memory.buffers);
  const monitor = await DelayMonitor.create();
  await allocator.prepare({ level: 1 });
  const cycle = async () => {
    await allocator.sleep();
    await allocator.wakeUp();
  };
  const copy = async () => {
    await host.copyInBackground(ranges, "toHost");
    await host.copyInBackground(ranges, "toDevice");
  };
  const parts: Record<string, Part> = {
    camem: async () => ({ delay: await monitor.longest(cycle) }),
  };
  const hasLimit = session.copyBy === CopyBy.threads;
  if (hasLimit) parts["copy"] = async () => ({ delay: await monitor.longest(copy) });
  const measured = await alternate(parts, { rounds: context.quick ? 7 : 15 });
  const delays = measured.get("camem", "delay");
  return {
    figures: [
      {
        scenario: "event loop",
        case: "prepared",
        operation: "longest delay",
        sizeBytes,
        segments: segmentsOf(layout),
        unit: "ms",
        value: statistic(delays),
        ...(hasLimit && {
          limit: compare("while C threads copy the same bytes", delays, measured.get("copy", "delay")),
        }),
      },
    ],
    targets: [{ id: "delay", measured: describeLayout(layout), value: statistic(delays) }],
    notes: [`the longest event-loop delay of all rounds was ${Math.max(...delays).toFixed(1)} ms`],
  };
}
