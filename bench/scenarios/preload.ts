/** What the library of `camem run` costs a program that is awake, and how fast its memory sleeps and wakes. */

import { dirname, join } from "node:path";
import { RemoteAllocator } from "camem";
import { preloadEnvironment } from "../../src/process/preload.ts";
import { compile, linkingAscendCL } from "../compile.ts";
import { GiB, pooled, quickBytes, segmentsOf } from "../layout.ts";
import { alternate, type Durations, type Rounds } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import { type Context, Session } from "../session.ts";
import { compare, median, ratios, statistic } from "../statistics.ts";
import { throughputTarget } from "../throughput.ts";
import {
  copyBothWays,
  limitHostBytes,
  limits,
  mergeDurations,
  timeTransition,
  transitionFigure,
} from "../transition.ts";

const scenario = "preload";

async function compileProgram({ folder }: Context): Promise<string> {
  const program = join(folder, "calls");
  const source = join(import.meta.dir, "../programs/calls.c");
  await compile(program, [source], linkingAscendCL);
  return program;
}

/** Where the program finds the AscendCL of this benchmark. */
function libraryFolders(library: string): string {
  return [dirname(library), process.env["LD_LIBRARY_PATH"] ?? ""].filter((path) => path !== "").join(":");
}

/** Figures of one run of the program, by name and size. */
async function timeCalls(program: string, environment: Readonly<Record<string, string>>): Promise<Durations> {
  const child = Bun.spawn([program], { env: { ...process.env, ...environment }, stderr: "inherit" });
  const [output, exitCode] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  if (exitCode !== 0) throw new Error(`the program that times calls ended with ${exitCode}`);
  const lines = output.trim().split("\n");
  return Object.fromEntries(
    lines.map((line) => {
      const [name, size, value] = line.split(" ");
      return [`${name} ${size}`, Number(value)];
    }),
  );
}

/** The sum of two figures, round by round. */
function pairs(rounds: Rounds, part: string, size: number): number[] {
  const freeing = rounds.get(part, `free ${size}`);
  return rounds.get(part, `malloc ${size}`).map((value, round) => value + (freeing[round] ?? Number.NaN));
}

const sizes = [64, 1024, 16 * 1024, 256 * 1024, 4 * 2 ** 20, 64 * 2 ** 20];

function awakeFigures(rounds: Rounds): Figure[] {
  const labels = { scenario, case: "awake", segments: 1 } as const;
  const without = "the same call without the library";
  const allocations = sizes.map((sizeBytes): Figure => {
    const [own, bare] = [pairs(rounds, "preloaded", sizeBytes), pairs(rounds, "bare", sizeBytes)];
    const operation = "aclrtMalloc and aclrtFree";
    const value = statistic(own);
    return { ...labels, operation, sizeBytes, unit: "ns", value, limit: compare(without, own, bare) };
  });
  const [call, bare] = [rounds.get("preloaded", "call_ps 0"), rounds.get("bare", "call_ps 0")].map((values) =>
    values.map((picoseconds) => picoseconds / 1000),
  ) as [number[], number[]];
  const gated: Figure = {
    ...labels,
    operation: "aclrtMemcpy of no bytes",
    sizeBytes: 0,
    unit: "ns",
    value: statistic(call),
    limit: compare(without, call, bare),
  };
  return [...allocations, gated];
}

async function measureAwake(
  program: string,
  bare: Readonly<Record<string, string>>,
  preloaded: Readonly<Record<string, string>>,
  quick: boolean,
): Promise<Findings> {
  const parts = {
    bare: () => timeCalls(program, bare),
    preloaded: () => timeCalls(program, preloaded),
  };
  const rounds = await alternate(parts, { rounds: quick ? 2 : 9 });
  const slowest = sizes
    .map((size) => ({ size, values: ratios(pairs(rounds, "preloaded", size), pairs(rounds, "bare", size)) }))
    .reduce((worst, each) => (median(each.values) > median(worst.values) ? each : worst));
  const bareCall = rounds.get("bare", "call_ps 0");
  const extraNs = rounds
    .get("preloaded", "call_ps 0")
    .map((picoseconds, round) => (picoseconds - (bareCall[round] ?? Number.NaN)) / 1000);
  const waste = rounds.get("preloaded", "waste_ppm 0").map((millionths) => millionths / 1e4);
  return {
    figures: awakeFigures(rounds),
    targets: [
      {
        id: "preload malloc",
        measured: `the slowest of ${sizes.length} sizes`,
        value: statistic(slowest.values),
      },
      { id: "preload call", measured: "aclrtMemcpy of no bytes", value: statistic(extraNs) },
      { id: "preload waste", measured: "sizes of llama.cpp, 749 MiB", value: statistic(waste) },
    ],
    notes: [],
  };
}

/** The memory of a program that runs under the library; the limit copies memory of the benchmark's own. */
async function measureSleep(
  session: Session,
  program: string,
  environment: Readonly<Record<string, string>>,
  { quick, folder }: Context,
): Promise<Findings> {
  const layout = pooled(quick ? quickBytes : 2 * GiB);
  const child = Bun.spawn([program, String(layout.sizeBytes)], {
    env: { ...process.env, ...environment },
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  try {
    const { done } = await child.stdout.getReader().read();
    if (done) throw new Error("the program that holds memory ended early");
    await using allocator = await RemoteAllocator.connect(
      { path: join(folder, `${child.pid}.sock`) },
      { retain: "all" },
    );
    using segments = session.loops.segments(segmentsOf(layout), layout.segmentBytes);
    using host = session.loops.host(Math.min(limitHostBytes, layout.sizeBytes));
    await allocator.prepare();
    const parts = {
      camem: async () =>
        mergeDurations(
          await timeTransition("sleep", () => allocator.sleep()),
          await timeTransition("wake", () => allocator.wakeUp()),
        ),
      copy: () => copyBothWays(host, segments.ranges),
    };
    const rounds = await alternate(parts, { rounds: quick ? 3 : 9 });
    const figure = (operation: "sleep" | "wake") =>
      transitionFigure(
        rounds,
        "camem",
        operation,
        { scenario: "transitions", case: "preload", layout },
        { limit: compare(limits.copy, rounds.get("camem", operation), rounds.get("copy", operation)) },
      );
    return {
      figures: [figure("sleep"), figure("wake")],
      targets: [throughputTarget("preload throughput", rounds, layout)],
      notes: [],
    };
  } finally {
    child.kill();
    await child.exited;
  }
}

export async function preload(context: Context): Promise<Findings> {
  const program = await compileProgram(context);
  await using session = new Session(context, { retain: "all" });
  const bare = { LD_LIBRARY_PATH: libraryFolders(session.allocator.backend.library) };
  const preloaded = {
    ...bare,
    ...preloadEnvironment({ name: "benchmark", onTouch: "wake", rules: [] }),
    CAMEM_SOCKET_DIR: context.folder,
  };
  const awake = await measureAwake(program, bare, preloaded, context.quick);
  const asleep = await measureSleep(session, program, preloaded, context);
  return {
    figures: [...awake.figures, ...asleep.figures],
    targets: [...awake.targets, ...asleep.targets],
    notes: [],
  };
}
