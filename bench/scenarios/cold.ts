/** Sleeps that find no host memory: what `prepare` is for, and where the peers always are. By size, and by layout. */

import type { CaMemAllocator } from "camem";
import { type Operation, together, transitionFigure } from "../figures.ts";
import { rangesOf } from "../loops.ts";
import { alternate, RoundsByName, type RoundsOptions } from "../rounds.ts";
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
import { copies, limitHostBytes, passes, sizesOf } from "./resident.ts";

const scenario = "transitions";

/** Memory that has never slept before goes to sleep for the first time, and wakes. */
async function firstCycle(allocator: CaMemAllocator, layout: Layout, isPrepared: boolean) {
  using _memory = new Memory(allocator, "weights", layout);
  if (isPrepared) await allocator.prepare({ level: 1 });
  const slept = await timeTransition("sleep", () => allocator.sleep({ level: 1 }));
  return together(slept, await timeTransition("wake", () => allocator.wakeUp()));
}

async function measure(
  { allocator, loops }: Session,
  layout: Layout,
  options: RoundsOptions,
): Promise<Findings> {
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
  const measured = await alternate(parts, options);
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

/** Rounds in each pass: page-locking gigabytes takes a while. */
const roundsOf = (layout: Layout) => (layout.sizeBytes > GiB ? 2 : 3);

export async function cold(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const { sizes, notes } = sizesThatFit(sizesOf(context.quick), 2, session.allocator);
  const reach = { sizeBytes: Math.min(GiB, Math.max(...sizes)), segmentBytes: smallSegmentBytes };
  const all = new RoundsByName();
  const found = new Map<Layout, Findings>();
  const layouts = [...sizes.map(pooled), reach];
  for (let pass = 0; pass < passes; pass++) {
    for (const layout of layouts) {
      const into = all.of(describeLayout(layout));
      found.set(layout, await measure(session, layout, { rounds: roundsOf(layout), into }));
    }
  }
  const figures = [...found.values()].flatMap((own) => own.figures);
  return { figures, reached: found.get(reach)?.reached ?? [], notes };
}
