/** First sleeps, cold and after `prepare`, beside the peers' algorithm: by size and by segment size. */

import type { CaMemAllocator } from "camem";
import {
  describeLayout,
  GiB,
  type Layout,
  pooled,
  segmentsOf,
  smallSegmentBytes,
  transitionSizes,
} from "../layout.ts";
import { rangesOf } from "../loops.ts";
import { alternate, passes, RoundsByName, type RoundsOptions } from "../rounds.ts";
import type { Findings } from "../schema.ts";
import { type Context, Memory, Session, sizesThatFit } from "../session.ts";
import { compare, ratios, statistic } from "../statistics.ts";
import {
  copyBothWays,
  limitHostBytes,
  limits,
  mergeDurations,
  type Operation,
  timeTransition,
  transitionFigure,
} from "../transition.ts";

const scenario = "transitions";

/** The first sleep and wake-up of newly allocated memory. */
async function firstCycle(allocator: CaMemAllocator, layout: Layout, isPrepared: boolean) {
  using _memory = new Memory(allocator, "weights", layout);
  if (isPrepared) await allocator.prepare({ level: 1 });
  const slept = await timeTransition("sleep", () => allocator.sleep({ level: 1 }));
  return mergeDurations(slept, await timeTransition("wake", () => allocator.wakeUp()));
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
      return copyBothWays(host, rangesOf(memory.buffers));
    },
  };
  const measured = await alternate(parts, options);
  const figure = (part: "cold" | "first", name: string, operation: Operation) => {
    const values = measured.get(part, operation);
    const labels = { scenario, case: name, layout };
    return transitionFigure(measured, part, operation, labels, {
      limit: compare(limits.copy, values, measured.get("copy", operation)),
      peers: compare("the peers' algorithm in C", values, measured.get("peers", operation)),
    });
  };
  const speed = ratios(measured.get("peers", "sleep"), measured.get("first", "sleep"));
  return {
    figures: [
      figure("cold", "cold", "sleep"),
      figure("cold", "cold", "wake"),
      figure("first", "first after prepare", "sleep"),
      figure("first", "first after prepare", "wake"),
    ],
    targets: [{ id: "peers", measured: describeLayout(layout), value: statistic(speed) }],
    notes: [],
  };
}

/** Rounds in each pass; fewer for large sizes, because page-locking gigabytes takes seconds. */
const roundsOf = (layout: Layout) => (layout.sizeBytes > GiB ? 2 : 3);

export async function cold(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const { sizes, notes } = sizesThatFit(transitionSizes(context.quick), 2, session.allocator);
  const targetLayout = { sizeBytes: Math.min(GiB, Math.max(...sizes)), segmentBytes: smallSegmentBytes };
  const roundsByName = new RoundsByName();
  const findings = new Map<Layout, Findings>();
  const layouts = [...sizes.map(pooled), targetLayout];
  for (let pass = 0; pass < passes; pass++) {
    for (const layout of layouts) {
      const into = roundsByName.getOrCreate(describeLayout(layout));
      findings.set(layout, await measure(session, layout, { rounds: roundsOf(layout), into }));
    }
  }
  const figures = [...findings.values()].flatMap((own) => own.figures);
  return { figures, targets: findings.get(targetLayout)?.targets ?? [], notes };
}
