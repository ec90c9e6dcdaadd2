/** Transitions with host memory ready, or without need of it: prepared, clean and level 2, by size. */

import type { CaMemAllocator } from "camem";
import {
  describeLayout,
  GiB,
  type Layout,
  MiB,
  pooled,
  segmentsOf,
  smallSegmentBytes,
  transitionSizes,
} from "../layout.ts";
import { type HostMemory, rangesOf } from "../loops.ts";
import { alternate, passes, type Rounds, RoundsByName } from "../rounds.ts";
import type { Figure, Findings, TargetValue } from "../schema.ts";
import { type Context, Memory, Session, sizesThatFit } from "../session.ts";
import { compare, ratios, statistic } from "../statistics.ts";
import { throughputTarget } from "../throughput.ts";
import {
  copyBothWays,
  limitHostBytes,
  limits,
  mergeDurations,
  timeTransition,
  transitionFigure,
} from "../transition.ts";

interface Setup {
  readonly session: Session;
  readonly host: HostMemory;
  readonly layout: Layout;
  readonly rounds: number;
  /** Of each round: many where they are short, so that the runtime has compiled the code of the later ones. */
  readonly repetitions: number;
  readonly into: Rounds;
}

const sleep = (allocator: CaMemAllocator, tag: string, level: 1 | 2 = 1) =>
  timeTransition("sleep", () => allocator.sleep({ level, tags: [tag] }));
const wake = (allocator: CaMemAllocator, tag: string) =>
  timeTransition("wake", () => allocator.wakeUp({ tags: [tag] }));

interface Limit {
  readonly name: string;
  readonly part: string;
  readonly duration: string;
}

/** Figures of camem's sleep and wake-up, each with the C loop that limits it. */
function figuresOf(
  rounds: Rounds,
  name: string,
  layout: Layout,
  sleepLimit: Limit,
  wakeLimit: Limit,
): Figure[] {
  const labels = { scenario: "transitions", case: name, layout };
  const figure = (operation: "sleep" | "wake", limit: Limit) =>
    transitionFigure(rounds, "camem", operation, labels, {
      limit: compare(limit.name, rounds.get("camem", operation), rounds.get(limit.part, limit.duration)),
    });
  return [figure("sleep", sleepLimit), figure("wake", wakeLimit)];
}

/** What a transition takes beyond its copies. */
function smallTarget(rounds: Rounds, layout: Layout): TargetValue {
  const beyond = (operation: "sleep" | "wake") => {
    const copy = rounds.get("copy", operation);
    return rounds.get("camem", operation).map((ms, round) => ms - (copy[round] ?? Number.NaN));
  };
  const value = statistic([...beyond("sleep"), ...beyond("wake")]);
  return { id: "small", measured: describeLayout(layout), value };
}

async function measurePrepared({ session, host, layout, into, ...counts }: Setup): Promise<Findings> {
  const { allocator } = session;
  using memory = new Memory(allocator, "weights", layout);
  const ranges = rangesOf(memory.buffers);
  await allocator.prepare({ level: 1 });
  const parts = {
    camem: async () => mergeDurations(await sleep(allocator, "weights"), await wake(allocator, "weights")),
    copy: () => copyBothWays(host, ranges),
  };
  const measured = await alternate(parts, { ...counts, into });
  const sleepLimit = { name: limits.copy, part: "copy", duration: "sleep" };
  const wakeLimit = { name: limits.copy, part: "copy", duration: "wake" };
  return {
    figures: figuresOf(measured, "prepared", layout, sleepLimit, wakeLimit),
    targets: [throughputTarget("throughput", measured, layout), smallTarget(measured, layout)],
    notes: [],
  };
}

/**
 * Between the rounds camem's memory sleeps and the C loop's segments are unmapped, so the device holds only
 * one of the two. The C loop copies into its segments before it unmaps them, because Linux takes a tenth
 * longer to unmap touched memory.
 */
async function measureClean({ session, host, layout, into, ...counts }: Setup): Promise<Findings> {
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
      return mergeDurations(woken, { copy }, await sleep(allocator, "clean"));
    },
    calls: () => {
      segments.map();
      host.copyToDevice(segments.ranges);
      return { sleep: segments.unmap() };
    },
  };
  const measured = await alternate(parts, { ...counts, into });
  await allocator.wakeUp({ tags: ["clean"] });
  segments.map();
  const sleepLimit = { name: limits.unmap, part: "calls", duration: "sleep" };
  const wakeLimit = { name: limits.copy, part: "camem", duration: "copy" };
  const time = ratios(measured.get("camem", "sleep"), measured.get("calls", "sleep"));
  return {
    figures: figuresOf(measured, "clean", layout, sleepLimit, wakeLimit),
    targets: [{ id: "clean", measured: describeLayout(layout), value: statistic(time) }],
    notes: [],
  };
}

async function measureLevel2({ session, layout, into, rounds, repetitions }: Setup): Promise<Findings> {
  const { allocator, loops } = session;
  using _memory = new Memory(allocator, "weights", layout);
  await allocator.sleep({ level: 2, tags: ["weights"] });
  using segments = loops.segments(segmentsOf(layout), layout.segmentBytes);
  segments.unmap();
  const parts = {
    camem: async () => mergeDurations(await wake(allocator, "weights"), await sleep(allocator, "weights", 2)),
    calls: () => ({ wake: segments.map(), sleep: segments.unmap() }),
  };
  const measured = await alternate(parts, { rounds, repetitions, into });
  await allocator.wakeUp({ tags: ["weights"] });
  segments.map();
  const sleepLimit = { name: limits.unmap, part: "calls", duration: "sleep" };
  const wakeLimit = { name: limits.map, part: "calls", duration: "wake" };
  return {
    figures: figuresOf(measured, "level 2", layout, sleepLimit, wakeLimit),
    targets: [],
    notes: [],
  };
}

/** Rounds in each pass; more for small sizes, because short transitions are noisier. */
function roundsOf(sizeBytes: number, quick: boolean): number {
  const [min, max] = quick ? [2, 4] : [3, 9];
  return Math.max(min, Math.min(max, Math.floor(GiB / sizeBytes)));
}

/** Repetitions in each round. */
const repetitionsOf = (sizeBytes: number) => Math.max(1, Math.floor((128 * MiB) / sizeBytes));

/** How much of the machine the benchmark had. With less of it, ratios of copies mean less. */
function noteOnLoad(roundsByName: RoundsByName): string {
  const shares = roundsByName.rounds.flatMap((rounds) => rounds.find("copy", "running") ?? []);
  const { p25, median } = statistic(shares);
  const percent = (share: number) => `${Math.round(share * 100)} %`;
  return [
    `the threads of the C copy loop had ${percent(median)} of a core each in the median,`,
    `${percent(p25)} or less in a quarter of the copies;`,
    "with less than 90 % the ratios of copies say little",
  ].join(" ");
}

interface Case {
  readonly name: string;
  readonly layout: Layout;
  readonly measure: (setup: Setup) => Promise<Findings>;
  /** The target that this layout measures. */
  readonly target?: string;
}

function casesOf(sizes: readonly number[], quick: boolean): Case[] {
  const largest = Math.max(...sizes);
  const throughputBytes = quick ? largest : Math.min(largest, 2 * GiB);
  const small = { sizeBytes: Math.min(GiB, largest), segmentBytes: smallSegmentBytes };
  const prepared = { name: "prepared", measure: measurePrepared };
  const clean = { name: "clean", measure: measureClean };
  const level2 = { name: "level 2", measure: measureLevel2 };
  const bySize = sizes.flatMap((size): Case[] => {
    const layout = pooled(size);
    const target =
      size === throughputBytes ? "throughput" : size === Math.min(...sizes) ? "small" : undefined;
    return [
      { ...prepared, layout, ...(target && { target }) },
      { ...clean, layout },
      { ...level2, layout },
    ];
  });
  return [...bySize, { ...prepared, layout: small }, { ...clean, layout: small, target: "clean" }];
}

export async function prepared(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "all" });
  const { sizes, notes } = sizesThatFit(transitionSizes(context.quick), 2, session.allocator);
  using host = session.loops.host(Math.min(limitHostBytes, Math.max(...sizes)));
  const roundsByName = new RoundsByName();
  const findings = new Map<string, Findings>();
  for (let pass = 0; pass < passes; pass++) {
    for (const { name, layout, measure, target } of casesOf(sizes, context.quick)) {
      const key = `${name} ${describeLayout(layout)}`;
      const rounds = roundsOf(layout.sizeBytes, context.quick);
      const into = roundsByName.getOrCreate(key);
      const repetitions = repetitionsOf(layout.sizeBytes);
      const own = await measure({ session, host, layout, rounds, repetitions, into });
      findings.set(key, { ...own, targets: own.targets.filter(({ id }) => id === target) });
    }
  }
  const figures = [...findings.values()].flatMap((own) => own.figures);
  const targets = [...findings.values()].flatMap((own) => own.targets);
  return { figures, targets, notes: [...notes, noteOnLoad(roundsByName)] };
}
