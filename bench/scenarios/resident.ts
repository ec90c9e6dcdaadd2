/** Sleeps and wake-ups that find their host memory ready, or need none: prepared, clean and level 2, by size. */

import type { CaMemAllocator } from "camem";
import { type Operation, together, transitionFigure } from "../figures.ts";
import { type HostMemory, rangesOf } from "../loops.ts";
import { alternate, type Durations, type Rounds, RoundsByName } from "../rounds.ts";
import type { Findings, Reached } from "../schema.ts";
import {
  type Context,
  describeLayout,
  GiB,
  type Layout,
  Memory,
  MiB,
  pooled,
  Session,
  segmentsOf,
  sizesThatFit,
  smallSegmentBytes,
  timeTransition,
} from "../session.ts";
import { compare, ratios, statistic, sums } from "../statistics.ts";

/** The limit's host memory is used again from its start beyond this. */
export const limitHostBytes = GiB;

const scenario = "transitions";
const copyLimit = "a C copy loop with as many threads";
const unmapLimit = "a C loop that only unmaps and frees";
const mapLimit = "a C loop that only allocates and maps";

interface Case {
  readonly session: Session;
  readonly host: HostMemory;
  readonly layout: Layout;
  readonly rounds: number;
  readonly into: Rounds;
}

const sleep = (allocator: CaMemAllocator, tag: string, level: 1 | 2 = 1) =>
  timeTransition("sleep", () => allocator.sleep({ level, tags: [tag] }));
const wake = (allocator: CaMemAllocator, tag: string) =>
  timeTransition("wake", () => allocator.wakeUp({ tags: [tag] }));

/** Copies both ways by the C loops, and which part of the time their threads were running at least. */
export function copies(host: HostMemory, ranges: BigUint64Array): Durations {
  const sleepMs = host.copyToHost(ranges);
  const whileSleeping = host.runningShare;
  const wakeMs = host.copyToDevice(ranges);
  return { sleep: sleepMs, wake: wakeMs, running: Math.min(whileSleeping, host.runningShare) };
}

const quietShare = 0.9;
const fewestQuietRounds = 3;

/**
 * Two threads that share a core with others are no limit, so only those rounds count in which each had a core to itself. Where
 * there were too few of them, what counts is the time for which the threads were running.
 */
function throughputReach(measured: Rounds, layout: Layout): Reached {
  const both = (part: "camem" | "copy") => sums(measured.of(part, "sleep"), measured.of(part, "wake"));
  const [camem, copy, running] = [both("camem"), both("copy"), measured.of("copy", "running")];
  const isQuiet = (_: number, round: number) => (running[round] ?? 0) >= quietShare;
  const quiet = running.filter(isQuiet).length;
  const enough = quiet >= fewestQuietRounds;
  const values = enough
    ? ratios(copy.filter(isQuiet), camem.filter(isQuiet))
    : ratios(copy, camem).map((ratio, round) => ratio * (running[round] ?? Number.NaN));
  const which = enough ? `${quiet} quiet rounds of ${running.length}` : "the machine was busy";
  return {
    id: "throughput",
    measured: `${describeLayout(layout)}; ${which}`,
    value: statistic(values),
  };
}

async function prepared({ session, host, layout, rounds, into }: Case): Promise<Findings> {
  const { allocator } = session;
  using memory = new Memory(allocator, "weights", layout);
  const ranges = rangesOf(memory.buffers);
  await allocator.prepare({ level: 1 });
  const parts = {
    camem: async () => together(await sleep(allocator, "weights"), await wake(allocator, "weights")),
    copy: () => copies(host, ranges),
  };
  const measured = await alternate(parts, { rounds, into });
  const limit = (operation: Operation) => ({
    limit: compare(copyLimit, measured.of("camem", operation), measured.of("copy", operation)),
  });
  const about = { scenario, case: "prepared", layout };
  return {
    figures: [
      transitionFigure(measured, "camem", "sleep", about, limit("sleep")),
      transitionFigure(measured, "camem", "wake", about, limit("wake")),
    ],
    reached: [throughputReach(measured, layout)],
    notes: [],
  };
}

/**
 * Asleep between the rounds, as the C loop's segments are unmapped: the device holds one of the two at a time. What the loop unmaps
 * was copied into as what a wake-up has restored: to unmap touched memory takes Linux a tenth longer.
 */
async function clean({ session, host, layout, rounds, into }: Case): Promise<Findings> {
  const { allocator, loops } = session;
  allocator.defineTag("clean", { 1: "offload", 2: "discard", immutable: true });
  using memory = new Memory(allocator, "clean", layout);
  const ranges = rangesOf(memory.buffers);
  await allocator.sleep({ level: 1, tags: ["clean"] });
  using segments = loops.segments(segmentsOf(layout), layout.segmentBytes);
  segments.unmap();
  const parts = {
    camem: async () => {
      const woken = await wake(allocator, "clean");
      const copy = host.copyToDevice(ranges);
      return together(woken, { copy }, await sleep(allocator, "clean"));
    },
    calls: () => {
      segments.map();
      host.copyToDevice(segments.ranges);
      return { sleep: segments.unmap() };
    },
  };
  const measured = await alternate(parts, { rounds, into });
  await allocator.wakeUp({ tags: ["clean"] });
  segments.map();
  const slept = measured.of("camem", "sleep");
  const woken = measured.of("camem", "wake");
  const about = { scenario, case: "clean", layout };
  return {
    figures: [
      transitionFigure(measured, "camem", "sleep", about, {
        limit: compare(unmapLimit, slept, measured.of("calls", "sleep")),
      }),
      transitionFigure(measured, "camem", "wake", about, {
        limit: compare(copyLimit, woken, measured.of("camem", "copy")),
      }),
    ],
    reached: [
      {
        id: "clean",
        measured: describeLayout(layout),
        value: statistic(ratios(slept, measured.of("calls", "sleep"))),
      },
    ],
    notes: [],
  };
}

async function level2({ session, layout, rounds, into }: Case): Promise<Findings> {
  const { allocator, loops } = session;
  using _memory = new Memory(allocator, "weights", layout);
  await allocator.sleep({ level: 2, tags: ["weights"] });
  using segments = loops.segments(segmentsOf(layout), layout.segmentBytes);
  segments.unmap();
  const parts = {
    camem: async () => together(await wake(allocator, "weights"), await sleep(allocator, "weights", 2)),
    calls: () => ({ wake: segments.map(), sleep: segments.unmap() }),
  };
  const measured = await alternate(parts, { rounds, into });
  await allocator.wakeUp({ tags: ["weights"] });
  segments.map();
  return { figures: callFigures(measured, "level 2", layout), reached: [], notes: [] };
}

function callFigures(measured: Rounds, name: string, layout: Layout) {
  const about = { scenario, case: name, layout };
  const limit = (operation: Operation, what: string) => ({
    limit: compare(what, measured.of("camem", operation), measured.of("calls", operation)),
  });
  return [
    transitionFigure(measured, "camem", "sleep", about, limit("sleep", unmapLimit)),
    transitionFigure(measured, "camem", "wake", about, limit("wake", mapLimit)),
  ];
}

export function sizesOf(quick: boolean): number[] {
  return quick
    ? [2 * MiB, 32 * MiB, 256 * MiB]
    : [2 * MiB, 16 * MiB, 128 * MiB, 512 * MiB, GiB, 2 * GiB, 4 * GiB];
}

/** All sizes are measured one after the other so many times, because a machine is faster at some times than at others. */
export const passes = 3;

/** Rounds in each pass: small transitions are noisier, and cost nothing. */
export function roundsOf(sizeBytes: number, quick: boolean): number {
  const [fewest, most] = quick ? [2, 4] : [3, 9];
  return Math.max(fewest, Math.min(most, Math.floor(GiB / sizeBytes)));
}

/** How much of the machine was ours: the lower that is, the less the ratios of copies tell. */
function noteOnOthers(all: RoundsByName): string[] {
  const shares = all.rounds.flatMap((rounds) => rounds.find("copy", "running") ?? []);
  const { p25, median } = statistic(shares);
  const percent = (share: number) => `${Math.round(share * 100)} %`;
  return [
    `the threads of the C copy loop had ${percent(median)} of a core each in the median, ${percent(p25)} or less in a quarter of the copies; with less than 90 % the ratios of copies say little`,
  ];
}

type Measure = (own: Case) => Promise<Findings>;

/** Every case: its layout, how it is measured, and the figure of the reach that it is. */
function casesOf(sizes: readonly number[], quick: boolean) {
  const largest = Math.max(...sizes);
  const reachBytes = quick ? largest : Math.min(largest, 2 * GiB);
  const small = { sizeBytes: Math.min(GiB, largest), segmentBytes: smallSegmentBytes };
  const bySize = sizes.flatMap((size): [Layout, Measure, string?][] => {
    const layout = pooled(size);
    return [
      size === reachBytes ? [layout, prepared, "throughput"] : [layout, prepared],
      [layout, clean],
      [layout, level2],
    ];
  });
  return [...bySize, [small, prepared], [small, clean, "clean"]] satisfies [Layout, Measure, string?][];
}

export async function resident(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "all" });
  const { sizes, notes } = sizesThatFit(sizesOf(context.quick), 2, session.allocator);
  using host = session.loops.host(Math.min(limitHostBytes, Math.max(...sizes)));
  const all = new RoundsByName();
  const found = new Map<string, Findings>();
  for (let pass = 0; pass < passes; pass++) {
    for (const [layout, measure, reach] of casesOf(sizes, context.quick)) {
      const name = `${measure.name} ${describeLayout(layout)}`;
      const rounds = roundsOf(layout.sizeBytes, context.quick);
      const own = await measure({ session, host, layout, rounds, into: all.of(name) });
      found.set(name, { ...own, reached: own.reached.filter(({ id }) => id === reach) });
    }
  }
  const figures = [...found.values()].flatMap((own) => own.figures);
  const reached = [...found.values()].flatMap((own) => own.reached);
  return { figures, reached, notes: [...notes, ...noteOnOthers(all)] };
}
