/**
 * `bun run bench`: measures camem beside its limits and the peers' algorithm, on an NPU if there is one, and on the
 * emulator otherwise. Prints tables, or JSON; writes `latest.json`, `latest.md`, charts. Exits with 1 where figures are
 * worse than those of an earlier run.
 */

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { cpus, release, tmpdir, totalmem } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { CaMemAllocator } from "camem";
import { Value } from "typebox/value";
import type { BackendChoice } from "../examples/tiny-llama/backend.ts";
import { selectBackend } from "../scripts/backend.ts";
import { localNative } from "../src/ffi/index.ts";
import { environmentNames } from "../src/options/allocator-options.ts";
import { drawCharts } from "./charts.ts";
import { readResults, worseFigures } from "./compare.ts";
import { compileLoops } from "./loops.ts";
import { describeDevice, describeMachine, markdown, summary, tables, worseTable } from "./report.ts";
import { type Scenario, scenarios } from "./scenarios/index.ts";
import { type Device, Findings, type Machine, Results } from "./schema.ts";
import { type Context, hasTimingModel } from "./session.ts";
import { targetRows } from "./targets.ts";

interface Options {
  readonly quick: boolean;
  readonly out: string;
  readonly json: boolean;
  /** An earlier run. */
  readonly before: Results | undefined;
  /** From this factor on, a figure counts as worse. */
  readonly beyond: number;
}

const usage = `bun run bench [options]
  --quick           smaller sizes and fewer rounds
  --out <folder>    where the results are written; by default bench/results
  --json            prints the results as JSON, with times in milliseconds where a figure says nothing else
  --compare <file>  names the figures that are worse than in the latest.json of an earlier run, and exits with 1
                    where there is one
  --beyond <ratio>  how much worse a figure may be; by default 1.1`;

/** A quick run keeps the committed results of the full run. */
function defaultFolder(quick: boolean): string {
  return join(import.meta.dir, "results", quick ? "quick" : "");
}

function parseOptions(): Options {
  try {
    const { values } = parseArgs({
      options: {
        quick: { type: "boolean", default: false },
        out: { type: "string" },
        json: { type: "boolean", default: false },
        compare: { type: "string" },
        beyond: { type: "string" },
        help: { type: "boolean", short: "h", default: false },
      },
    });
    if (values.help) {
      console.log(`usage: ${usage}`);
      process.exit(0);
    }
    if (values.out === "") throw new TypeError("--out is empty; it must be a folder");
    const { quick, json, compare, beyond } = values;
    if (beyond !== undefined && compare === undefined) throw new TypeError("--beyond needs --compare");
    return {
      quick,
      json,
      out: resolve(values.out ?? defaultFolder(quick)),
      before: compare === undefined ? undefined : readResults(compare, quick),
      beyond: ratioOf(beyond ?? "1.1"),
    };
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : error}\nusage: ${usage}`);
    process.exit(2);
  }
}

function ratioOf(text: string): number {
  const ratio = Number(text);
  if (ratio >= 1 && Number.isFinite(ratio)) return ratio;
  throw new TypeError(`--beyond is "${text}"; it must be a number of at least 1, such as 1.1`);
}

const checkout = join(import.meta.dir, "../");

async function findDevice({ backend, reason }: BackendChoice): Promise<Device> {
  await using allocator = CaMemAllocator.getInstance();
  const soc = localNative.runtimeInfo().socName;
  return {
    backend,
    reason,
    // Relative to the checkout, because other people read the results.
    library: allocator.backend.library.replace(checkout, ""),
    soc: soc === "" ? "a device without a name" : soc,
    timingModel: hasTimingModel(soc),
  };
}

function findMachine(): Machine {
  const all = cpus();
  return {
    cpu: all[0]?.model.trim() ?? process.arch,
    cores: all.length,
    memoryBytes: totalmem(),
    kernel: release(),
    bun: Bun.version,
  };
}

/** Variables that choose the device. A scenario sets all other options of its allocators itself. */
const deviceVariables: readonly string[] = [
  environmentNames.backend,
  environmentNames.aclLibrary,
  environmentNames.device,
];

function environmentOf({ residentBytes, timing }: Scenario): Record<string, string | undefined> {
  const otherNames = Object.values(environmentNames).filter((name) => !deviceVariables.includes(name));
  const cleared = Object.fromEntries(
    [...otherNames, "CAMEM_EMULATOR_FAULTS"].map((name) => [name, undefined]),
  );
  const model = timing === undefined ? {} : { CAMEM_EMULATOR_TIMING: timing };
  return { ...process.env, ...cleared, ...model, CAMEM_EMULATOR_POOL: String(residentBytes) };
}

/** Runs a scenario in its own process, because environment and memory peaks are per process. */
async function run(name: string, scenario: Scenario, context: Context): Promise<Findings> {
  const output = join(context.folder, "findings.json");
  const command = [
    process.execPath,
    join(import.meta.dir, "child.ts"),
    name,
    JSON.stringify(context),
    output,
  ];
  const child = Bun.spawn(command, {
    env: environmentOf(scenario),
    stdout: "inherit",
    stderr: "inherit",
  });
  const exitCode = await child.exited;
  if (exitCode !== 0) throw new Error(`the scenario "${name}" ended with ${child.signalCode ?? exitCode}`);
  return Value.Parse(Findings, await Bun.file(output).json());
}

async function runAll(context: Context): Promise<Findings[]> {
  const findings: Findings[] = [];
  for (const [name, scenario] of Object.entries(scenarios)) {
    const startedMs = performance.now();
    findings.push(await run(name, scenario, context));
    console.error(`${name}: ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
  }
  return findings;
}

async function measureInFolder(quick: boolean): Promise<Findings[]> {
  const folder = mkdtempSync(join(tmpdir(), "camem-bench-"));
  try {
    return await runAll({ quick, folder, loopsPath: await compileLoops(folder) });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function measure(quick: boolean): Promise<Results> {
  const startedMs = performance.now();
  const device = await findDevice(await selectBackend());
  const machine = findMachine();
  console.error(`${describeDevice(device)}\n${describeMachine(machine)}`);
  const findings = await measureInFolder(quick);
  return Value.Parse(Results, {
    version: 2,
    date: new Date().toISOString(),
    quick,
    durationSeconds: (performance.now() - startedMs) / 1000,
    device,
    machine,
    targets: targetRows(findings.flatMap(({ targets }) => targets)),
    figures: findings.flatMap(({ figures }) => figures),
    notes: findings.flatMap(({ notes }) => notes),
  });
}

async function write(results: Results, folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const charts = await drawCharts(results, folder);
  await Bun.write(join(folder, "latest.json"), `${JSON.stringify(results, null, 2)}\n`);
  await Bun.write(join(folder, "latest.md"), markdown(results, charts));
}

/** Reports what is worse than in an earlier run. Returns the exit status. */
function compareWith(results: Results, before: Results, beyond: number): number {
  const worse = worseFigures(results, before, beyond);
  const run = `the run of ${before.date.slice(0, 10)}`;
  if (worse.length === 0) console.error(`\nno figure is more than ${beyond} times that of ${run}`);
  else
    console.error(`\nworse than in ${run}, beyond ${beyond} times and the spread:\n\n${worseTable(worse)}`);
  return worse.length === 0 ? 0 : 1;
}

const { quick, out, json, before, beyond } = parseOptions();
const results = await measure(quick);
console.log(json ? JSON.stringify(results, null, 2) : `${summary(results)}\n\n${tables(results)}`);
await write(results, out);
console.error(`\nwritten to ${out}`);
if (before !== undefined) process.exitCode = compareWith(results, before, beyond);
