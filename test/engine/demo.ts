/**
 * `bun run demo:engine`: an engine in C that knows nothing of camem writes a text under `camem run`, sleeps when it is idle, and
 * wakes for the next request. It runs on the emulator.
 */

import { rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { formatSize } from "camem";
import { buildLinkedEngine, engineEnvironment } from "./linked.ts";

interface Usage {
  readonly engines: Readonly<Record<string, { readonly status: { readonly state: string } }>>;
  readonly devices: readonly { readonly freeBytes: number; readonly totalBytes: number }[];
}

const port = 8000 + (process.pid % 1000);
const url = `http://127.0.0.1:${port}`;

async function stateOf(): Promise<string> {
  const usage = (await (await fetch(`${url}/camem/usage`)).json()) as Usage;
  const [engine] = Object.values(usage.engines);
  const used = usage.devices.map(({ freeBytes, totalBytes }) => formatSize(totalBytes - freeBytes));
  return `${engine?.status.state}, ${used.join(" and ") || "nothing"} of the device in use`;
}

async function untilState(state: string): Promise<void> {
  while (!(await stateOf()).startsWith(state)) await Bun.sleep(20);
}

async function complete(prompt: string): Promise<void> {
  const begun = performance.now();
  const body = JSON.stringify({ prompt, max_tokens: 16 });
  const response = await fetch(`${url}/v1/completions`, { method: "POST", body });
  const answer = (await response.json()) as { choices: { text: string }[] };
  const durationMs = Math.round(performance.now() - begun);
  console.log(`completion  "${answer.choices[0]?.text}" after ${durationMs} ms; ${await stateOf()}`);
}

console.log("building    the engine of test/engine/program with zig cc");
const engine = buildLinkedEngine();
const options = ["--listen", `127.0.0.1:${port}`, "--upstream", `http://127.0.0.1:${port + 1000}`];
const idle = ["--idle", "1s:1", "--ready-path", "/health", "--name", "demo"];
const program = [engine, "--port", String(port + 1000), "--weights", "16", "--cache", "8"];
console.log(`running     camem run ${[...options, ...idle].join(" ")} -- ${program.join(" ")}`);
const run = Bun.spawn(
  [
    process.execPath,
    join(import.meta.dir, "../../src/cli/main.ts"),
    "run",
    ...options,
    ...idle,
    "--",
    ...program,
  ],
  { env: { ...process.env, ...engineEnvironment }, stdio: ["ignore", "ignore", "inherit"] },
);
try {
  while (!(await fetch(`${url}/health`).catch(() => undefined))?.ok) {
    if (run.exitCode !== null) throw new Error(`camem run ended with ${run.exitCode}`);
    await Bun.sleep(20);
  }
  await complete("Call me");
  console.log("waiting     for one second without requests");
  await untilState("asleep");
  console.log(`idle        ${await stateOf()}`);
  await complete("Call me");
} finally {
  run.kill("SIGTERM");
  await run.exited;
  rmSync(dirname(engine), { recursive: true });
}
