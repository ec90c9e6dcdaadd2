/** Sleeps that find no host memory: what `prepare` is for, and where the peers always are. By size, and by layout. */

import type { CaMemAllocator } from "camem";
import { type Operation, together, transitionFigure } from "../figures.ts";
import { rangesOf } from "../loops.ts";
import { alternate } from "../rounds.ts";
import type { Findings } from "../schema.ts";
import {
  type Context,
  describeLayout,
  GiB,
  type Layout,
  Memory,
  pooled,
  Session,
  segmentsOf,
  sizesThatFit,
  smallSegmentBytes,
  timeTransition,
} from "../session.ts";
import { compare, ratios, statistic } from "../statistics.ts";
import { copies, limitHostBytes, roundsOf, sizesOf } from "./resident.ts";

const scenario = "transitions";

/** Memory that has never slept before goes to sleep for the first time, and wakes. */
async function firstCycle(allocator: CaMemAllocator, layout: Layout, isPrepared: boolean) {
  using _memory = new Memory(allocator, "weights", layout);
  if (isPrepared) await allocator.prepare({ level: 1 });
  const slept = await timeTransition("sleep", () => allocator.sleep({ level: 1 }));
  return together(slept, await timeTransition("wake", () => allocator.wakeUp()));
}

async function measure({ allocator, loops }: Session, layout: Layout, rounds: number): Promise<Findings> {
  const parts = {
    cold: () => firstCycle(allocator, layout, false),
    first: () => firstCycle(allocator, layout, true),
    peers: () => {
      using segments = loops.segments(segmentsOf(layout), layout.segmentBytes);
      return { sleep: segments.peersSleep(), wake: segments.peersWake() };
    },
    copy: () => {
      using memory = new Memory(allocator, "weights", layout);
      using host = loops.host(Math.min(layout.sizeBytes, limitHostBytes));
      return copies(host, rangesOf(memory.buffers));
    },
  };
  const measured = await alternate(parts, { rounds });
  const figure = (part: "cold" | "first", name: string, operation: Operation) => {
    const values = measured.of(part, operation);
    return transitionFigure(
      measured,
      part,
      operation,
      { scenario, case: name, layout },
      {
        limit: compare("a C copy loop with as many threads", values, measured.of("copy", operation)),
        peers: compare("the peers' algorithm in C", values, measured.of("peers", operation)),
      },
    );
  };
  return {
    figures: [
      figure("cold", "cold", "sleep"),
      figure("cold", "cold", "wake"),
      figure("first", "first after prepare", "sleep"),
      figure("first", "first after prepare", "wake"),
    ],
    reached: [
      {
        id: "peers",
        measured: describeLayout(layout),
        value: statistic(ratios(measured.of("peers", "sleep"), measured.of("first", "sleep"))),
      },
    ],
    notes: [],
  };
}

export async function cold(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const { sizes, notes } = sizesThatFit(sizesOf(context.quick), 2, session.allocator);
  const found: Findings = { figures: [], reached: [], notes };
  const run = async (layout: Layout, isReach: boolean) => {
    const rounds = Math.min(context.quick ? 5 : 9, roundsOf(layout.sizeBytes, context.quick));
    const { figures, reached } = await measure(session, layout, layout.sizeBytes > GiB ? 5 : rounds);
    found.figures.push(...figures);
    if (isReach) found.reached.push(...reached);
  };
  for (const size of sizes) await run(pooled(size), false);
  const reachBytes = Math.min(GiB, Math.max(...sizes));
  await run({ sizeBytes: reachBytes, segmentBytes: smallSegmentBytes }, true);
  return found;
}
