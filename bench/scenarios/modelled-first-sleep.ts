/** The first sleep without `prepare`, with the time that an assumed device takes: its copies need no processor. */

import type { CaMemAllocator } from "camem";
import { describeLayout, GiB, type Layout, pooled, quickBytes, segmentsOf } from "../layout.ts";
import { alternate, type Durations } from "../rounds.ts";
import type { Findings } from "../schema.ts";
import { type Context, Memory, Session } from "../session.ts";
import { compare, ratios, statistic } from "../statistics.ts";
import { timeTransition } from "../transition.ts";

/** A link of PCIe 4.0 with 16 lanes; page-locking with 4 GiB/s on each thread. */
export const modelledLink = "h2d=24GiB/s,d2h=22GiB/s,aclrtMallocHost=4GiB/s,content=off";

async function firstSleep(allocator: CaMemAllocator, layout: Layout): Promise<Durations> {
  using _memory = new Memory(allocator, "weights", layout);
  const slept = await timeTransition("sleep", () => allocator.sleep());
  await allocator.wakeUp();
  return slept;
}

/** Page-locking alone, then copying alone. */
async function apart(allocator: CaMemAllocator, layout: Layout): Promise<Durations> {
  using _memory = new Memory(allocator, "weights", layout);
  const { durations } = await allocator.prepare();
  const slept = await timeTransition("sleep", () => allocator.sleep());
  await allocator.wakeUp();
  return { longer: Math.max(durations.totalMs, slept["sleep"] ?? Number.NaN) };
}

export async function modelledFirstSleep(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const { allocator, loops } = session;
  const layout = pooled(context.quick ? 4 * quickBytes : 4 * GiB);
  const parts = {
    first: () => firstSleep(allocator, layout),
    apart: () => apart(allocator, layout),
    peers: () => {
      using segments = loops.segments(segmentsOf(layout), layout.segmentBytes);
      const sleep = segments.peersSleep();
      segments.peersWake();
      return { sleep };
    },
  };
  const measured = await alternate(parts, { rounds: context.quick ? 2 : 4 });
  const first = measured.get("first", "sleep");
  const longer = measured.get("apart", "longer");
  const peers = measured.get("peers", "sleep");
  const labels = { sizeBytes: layout.sizeBytes, segments: segmentsOf(layout), unit: "ms" } as const;
  return {
    figures: [
      {
        ...labels,
        scenario: "modelled first sleep",
        case: "without prepare",
        operation: "sleep",
        value: statistic(first),
        limit: compare("the longer of page-locking and copying alone", first, longer),
        peers: compare("the peers' algorithm in C", first, peers),
      },
    ],
    targets: [
      { id: "modelled first", measured: describeLayout(layout), value: statistic(ratios(first, longer)) },
      { id: "modelled peers", measured: describeLayout(layout), value: statistic(ratios(peers, first)) },
    ],
    notes: [`modelled first sleep: timing model ${modelledLink}`],
  };
}
