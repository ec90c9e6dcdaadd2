/**
 * Runs the tests of the library on Deno, each file in a process of its own: all Workers of a process share one device.
 * Arguments are files; by default all that Deno can run.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { globSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { denoPath } from "../../scripts/deno-path.ts";
import { onlyOnBun } from "./only-on-bun.ts";

const root = join(import.meta.dirname, "../..");

/** The folders that test the library. The others test programs that run on Bun. */
const patterns = [
  "test/*.test.ts",
  "test/{options,policy,ffi,memory,transition,checkpoint,fault-injection,server,metrics}/**/*.test.ts",
];

/** Types are checked by tsc, for the tests of both runtimes. */
const command = ["test", "--allow-all", "--no-check", "--no-prompt", "--quiet", "--v8-flags=--expose-gc"];
const preload = "--preload=test/preload.ts";

function filesToRun(): string[] {
  const named = process.argv.slice(2);
  if (named.length > 0) return named;
  const excluded = new Set(onlyOnBun.flatMap(({ files = [] }) => files));
  return globSync(patterns, { cwd: root })
    .filter((path) => !excluded.has(path))
    .sort();
}

/** Returns whether the tests of a file passed; prints a line, and everything where they did not. */
async function runFile(path: string): Promise<boolean> {
  const env = { ...process.env, NO_COLOR: "1" };
  const child = spawn(denoPath, [...command, preload, path], { cwd: root, env });
  const [output, errors, [exitCode]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "exit"),
  ]);
  const passed = exitCode === 0;
  console.log(`deno test ${path}: ${/^(?:ok|FAILED) \| .*$/m.exec(output)?.[0] ?? `exit code ${exitCode}`}`);
  if (!passed) console.log(output + errors);
  return passed;
}

const waiting = filesToRun();
const failed: string[] = [];

async function work(): Promise<void> {
  for (let path = waiting.shift(); path !== undefined; path = waiting.shift())
    if (!(await runFile(path))) failed.push(path);
}

await Promise.all(Array.from({ length: Math.min(availableParallelism(), 4) }, work));
if (failed.length > 0) {
  console.error(`failed on Deno: ${failed.join(", ")}`);
  process.exitCode = 1;
}
