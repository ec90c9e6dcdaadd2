/**
 * The library under torture: failing AscendCL calls, allocations and threads at random, in a process of its own.
 *
 *     bun run torture                                  one random seed on what is shipped
 *     bun run torture --build safe --minutes 10        random seeds on a build with safety checks, one after the other
 *     bun run torture --seed 7 --steps 80              that seed again
 *     bun run torture --seed 7 --seeds 10              the seeds 7 to 16
 *     bun run torture --exhaustive                     every allocation, thread and context call of every verb fails in turn
 *
 * Each seed is printed. Where the process dies, hangs, loses content or leaks, it prints the last steps, the shortest run
 * that it finds to do the same, and how to repeat it; then it goes on with --continue, and exits with 1 otherwise.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Build, buildLibraries, builds, type Libraries } from "./builds.ts";
import { type Ending, type Result, shorten, torture, tortureEach } from "./driver.ts";

const usage =
  "usage: bun run torture [--build shipped|safe] [--minutes <n>] [--seed <n>] [--seeds <n>] [--steps <n>] [--without <n,n>] [--attempts <n>] [--continue] [--exhaustive] [--verbs <name,name>]";

function refuse(message: string): never {
  console.error(`${message}\n${usage}`);
  process.exit(2);
}

function parseOptions() {
  try {
    return parseArgs({
      options: {
        build: { type: "string", default: "shipped" },
        minutes: { type: "string" },
        seed: { type: "string" },
        seeds: { type: "string" },
        steps: { type: "string", default: "80" },
        without: { type: "string", default: "" },
        attempts: { type: "string", default: "40" },
        continue: { type: "boolean", default: false },
        exhaustive: { type: "boolean", default: false },
        verbs: { type: "string", default: "" },
      },
    }).values;
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error));
  }
}

function numberOf(name: string, text: string): number {
  const number = Number(text);
  return Number.isFinite(number) && number >= 0
    ? number
    : refuse(`--${name} is "${text}"; it must be a number`);
}

const options = parseOptions();

function buildOf(name: string): Build {
  return (
    builds.find((build) => build === name) ?? refuse(`--build is "${name}"; it must be one of ${builds}`)
  );
}

function printFailure(title: string, { failure }: Ending, command: string): void {
  if (failure === undefined) return;
  console.log(`${title}: ${failure.what}`);
  for (const line of failure.history) console.log(`  ${line}`);
  if (failure.words.trim() !== "") console.log(failure.words.trimEnd().split("\n").slice(0, 60).join("\n"));
  console.log(`repeat with: bun run torture --build ${options.build} ${command}`);
}

function commandOf({ seed, steps, without = [] }: Result): string {
  const left = without.length > 0 ? ` --without ${without.join(",")}` : "";
  return `--seed ${seed} --steps ${steps}${left}`;
}

function printOutcomes(results: readonly Ending[]): void {
  const totals = new Map<string, number>();
  for (const { outcomes } of results)
    for (const [name, count] of outcomes) totals.set(name, (totals.get(name) ?? 0) + count);
  for (const [name, count] of [...totals].sort((a, b) => b[1] - a[1]))
    console.log(`${String(count).padStart(9)}  ${name}`);
}

async function runEach(libraries: Libraries): Promise<number> {
  const ending = await tortureEach(libraries, options.verbs.split(",").filter(Boolean));
  printFailure("last faults", ending, `--exhaustive --verbs "${options.verbs}"`);
  printOutcomes([ending]);
  return ending.failure ? 1 : 0;
}

async function runSeeds(libraries: Libraries): Promise<number> {
  const steps = numberOf("steps", options.steps);
  const attempts = numberOf("attempts", options.attempts);
  const minutes = options.minutes === undefined ? undefined : numberOf("minutes", options.minutes);
  const deadlineMs = minutes === undefined ? Number.POSITIVE_INFINITY : performance.now() + minutes * 60_000;
  const fallback = minutes === undefined ? 1 : Number.POSITIVE_INFINITY;
  const count = options.seeds === undefined ? fallback : numberOf("seeds", options.seeds);
  const first = options.seed === undefined ? undefined : numberOf("seed", options.seed);
  const without = options.without.split(",").filter(Boolean).map(Number);
  const results: Result[] = [];
  const isOver = () => results.some(({ failure }) => failure) && !options.continue;
  while (results.length < count && performance.now() < deadlineMs && !isOver()) {
    const seed = first === undefined ? Math.floor(Math.random() * 2 ** 31) : first + results.length;
    const result = await torture(libraries, { seed, steps, without });
    results.push(result);
    console.log(`seed ${seed}: ${result.failure?.what ?? `${steps} steps`}`);
    if (result.failure === undefined) continue;
    printFailure("last steps", result, commandOf(result));
    if (attempts === 0) continue;
    const shortest = await shorten(libraries, result, attempts);
    printFailure("shortest run", shortest, commandOf(shortest));
  }
  const failed = results.filter(({ failure }) => failure);
  printOutcomes(results);
  console.log(
    `build: ${options.build}, seeds: ${results.length}, steps: ${results.length * steps}, failed: ${failed.length}`,
  );
  return failed.length > 0 ? 1 : 0;
}

const folder = mkdtempSync(join(tmpdir(), "camem-torture-build-"));
const libraries = await buildLibraries(buildOf(options.build), folder);
const run = options.exhaustive ? runEach : runSeeds;
const exitCode = await run(libraries).finally(() => rmSync(folder, { recursive: true }));
process.exit(exitCode);
