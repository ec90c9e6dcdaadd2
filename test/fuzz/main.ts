/**
 * Compares the shipped binary with a naive model, with events from a seed:
 *
 *     bun run fuzz                          one random seed
 *     bun run fuzz --minutes 10             random seeds, one after the other
 *     bun run fuzz --seed 7 --events 500    that seed again
 *     bun run fuzz --seed 7 --seeds 10      the seeds 7 to 16
 *
 * Prints each seed. At a divergence it prints the last events and the command to repeat them, and exits with 1.
 */

import { parseArgs } from "node:util";
import { buildNative } from "../../scripts/native.ts";
import { type FuzzResult, fuzz } from "./driver.ts";
import { emulatorEnvironment } from "./harness.ts";
import type { Mistake } from "./model.ts";

const defaultEvents = 2000;

const { values } = parseOptions();

function parseOptions() {
  try {
    return parseArgs({
      options: {
        seed: { type: "string" },
        seeds: { type: "string" },
        events: { type: "string" },
        minutes: { type: "string" },
        mistake: { type: "string" },
      },
    });
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    console.error("usage: bun run fuzz [--minutes <n>] [--seed <n>] [--seeds <n>] [--events <n>]");
    process.exit(2);
  }
}

function wholeNumber(name: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const number = Number(value);
  if (Number.isSafeInteger(number) && number >= 0) return number;
  console.error(`--${name} is "${value}"; it must be a whole number`);
  process.exit(2);
}

function positive(name: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const number = Number(value);
  if (number > 0 && Number.isFinite(number)) return number;
  console.error(`--${name} is "${value}"; it must be a number above 0`);
  process.exit(2);
}

/** The emulator reads its environment with getenv, so variables must be set when the process starts. */
async function inEnvironment(): Promise<number> {
  await buildNative();
  const child = Bun.spawn([process.execPath, import.meta.path, ...process.argv.slice(2)], {
    env: { ...process.env, CAMEM_VERIFY: "", CAMEM_ACL_LIBRARY: "", ...emulatorEnvironment, CAMEM_FUZZ: "1" },
    stdio: ["ignore", "inherit", "inherit"],
  });
  return child.exited;
}

function printDivergence({ seed, events, divergence }: FuzzResult): void {
  if (!divergence) return;
  const mistake = values.mistake === undefined ? "" : ` --mistake "${values.mistake}"`;
  console.log(`DIVERGENCE with seed ${seed} at event ${events}: ${divergence.message}`);
  for (const line of divergence.history) console.log(`  ${line}`);
  console.log(`repeat with: bun run fuzz --seed ${seed} --events ${events}${mistake}`);
}

function printCounts(heading: string, counts: readonly ReadonlyMap<string, number>[]): void {
  const totals = new Map<string, number>();
  for (const each of counts)
    for (const [name, count] of each) totals.set(name, (totals.get(name) ?? 0) + count);
  console.log(heading);
  for (const [name, count] of [...totals].sort((a, b) => b[1] - a[1]))
    console.log(`${String(count).padStart(9)}  ${name}`);
}

function printTotals(results: readonly FuzzResult[], seconds: number): void {
  printCounts(
    "events",
    results.map((result) => result.counts),
  );
  printCounts(
    "outcomes of disturbed transitions",
    results.map((result) => result.outcomes),
  );
  const events = results.reduce((sum, result) => sum + result.events, 0);
  const divergences = results.filter((result) => result.divergence).length;
  console.log(
    `seeds: ${results.length}, events: ${events}, ${Math.round(events / seconds)} a second, divergences: ${divergences}`,
  );
}

async function run(): Promise<number> {
  const firstSeed = wholeNumber("seed", values.seed);
  const minutes = positive("minutes", values.minutes);
  const events = wholeNumber("events", values.events) ?? defaultEvents;
  const startedMs = performance.now();
  const deadlineMs = minutes === undefined ? undefined : startedMs + minutes * 60_000;
  const seedCount =
    wholeNumber("seeds", values.seeds) ?? (minutes === undefined ? 1 : Number.POSITIVE_INFINITY);
  const results: FuzzResult[] = [];
  while (results.length < seedCount && performance.now() < (deadlineMs ?? Number.POSITIVE_INFINITY)) {
    const seed = firstSeed === undefined ? Math.floor(Math.random() * 2 ** 31) : firstSeed + results.length;
    const mistake = values.mistake as Mistake | undefined;
    const result = await fuzz({ seed, events, deadlineMs, mistake });
    results.push(result);
    console.log(`seed ${seed}: ${result.events} events`);
    printDivergence(result);
    if (result.divergence) break;
  }
  printTotals(results, (performance.now() - startedMs) / 1000);
  return results.some((result) => result.divergence) ? 1 : 0;
}

process.exit(process.env["CAMEM_FUZZ"] === "1" ? await run() : await inEnvironment());
