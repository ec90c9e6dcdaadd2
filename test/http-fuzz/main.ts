/**
 * Random requests over raw sockets: with and without a token, with the headers of browsers and proxies, malformed.
 *
 *     bun run http-fuzz                              10,000 requests from a random seed
 *     bun run http-fuzz --requests 100000 --seed 1   that seed
 *
 * Prints the seed. Exits with 1 when a request changed what it must not, or was answered with 500.
 */

import { parseArgs } from "node:util";
import { buildNative } from "../../scripts/native.ts";
import { httpFuzz } from "./driver.ts";

function parseOptions() {
  try {
    return parseArgs({
      options: { seed: { type: "string" }, requests: { type: "string", default: "10000" } },
    }).values;
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error));
  }
}

function refuse(message: string): never {
  console.error(`${message}\nusage: bun run http-fuzz [--seed <n>] [--requests <n>]`);
  process.exit(2);
}

function numberOf(name: string, text: string): number {
  return /^\d{1,9}$/.test(text) ? Number(text) : refuse(`--${name} is "${text}"; it must be a whole number`);
}

const options = parseOptions();
const seed = numberOf("seed", options.seed ?? String(Math.floor(Math.random() * 1e9)));
const requests = numberOf("requests", options.requests);
console.log(`seed ${seed}`);
process.env["CAMEM_BACKEND"] ??= "emulator";
await buildNative();
const startedMs = performance.now();
const { failures, allowed, changed, statuses } = await httpFuzz({ seed, requests });
for (const failure of failures) console.log(failure);
const seconds = ((performance.now() - startedMs) / 1000).toFixed(0);
const answers = [...statuses].toSorted(([one], [other]) => one.localeCompare(other));
console.log(`answers: ${answers.map(([status, count]) => `${status} ${count}`).join(", ")}`);
console.log(
  `requests: ${requests}, allowed to change: ${allowed}, changed: ${changed}, wrong: ${failures.length}, ${seconds} s`,
);
process.exit(failures.length > 0 ? 1 : 0);
