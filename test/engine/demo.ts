/**
 * `bun run demo:engine`: an engine in C that knows nothing of camem writes texts under `camem run`, sleeps when it is idle, and
 * wakes for the next request. Its texts are those that it writes without camem. It runs on the emulator.
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
const upstream = `http://127.0.0.1:${port + 1000}`;
const prompts = ["Call me", "Some years ago"];
const environment = { ...process.env, ...engineEnvironment };
const cli = join(import.meta.dir, "../../src/cli/main.ts");

async function stateOf(): Promise<string> {
  const usage = (await (await fetch(`${url}/camem/usage`)).json()) as Usage;
  const [engine] = Object.values(usage.engines);
  const used = usage.devices.map(({ freeBytes, totalBytes }) => formatSize(totalBytes - freeBytes));
  return `${engine?.status.state}, ${used.join(" and ") || "nothing"} of the device in use`;
}

async function untilState(state: string): Promise<void> {
  while (!(await stateOf()).startsWith(state)) await Bun.sleep(20);
}

async function complete(prompt: string, base: string): Promise<string> {
  const body = JSON.stringify({ prompt, max_tokens: 16 });
  const response = await fetch(`${base}/v1/completions`, { method: "POST", body });
  const answer = (await response.json()) as { choices: { text: string }[] };
  return answer.choices[0]?.text ?? "";
}

async function untilHealthy(base: string, process: Bun.Subprocess): Promise<void> {
  while (!(await fetch(`${base}/health`).catch(() => undefined))?.ok) {
    if (process.exitCode !== null) throw new Error(`the program ended with ${process.exitCode}`);
    await Bun.sleep(20);
  }
}

/** What the engine writes to each prompt without camem. Its cache remembers the prompts before. */
async function textsWithout(program: readonly string[]): Promise<string[]> {
  const bare = Bun.spawn([...program], { env: environment, stdio: ["ignore", "ignore", "inherit"] });
  try {
    await untilHealthy(upstream, bare);
    const texts: string[] = [];
    for (const prompt of prompts) texts.push(await complete(prompt, upstream));
    return texts;
  } finally {
    bare.kill("SIGTERM");
    await bare.exited;
  }
}

console.log("building    the engine of test/engine/program with zig cc");
const engine = buildLinkedEngine();
const options = ["--listen", `127.0.0.1:${port}`, "--upstream", upstream];
const idle = ["--idle", "1s:1", "--ready-path", "/health", "--name", "demo"];
const program = [engine, "--port", String(port + 1000), "--weights", "16", "--cache", "8"];
console.log(`running     camem run ${[...options, ...idle].join(" ")} -- ${program.join(" ")}`);
const expected = await textsWithout(program);
const run = Bun.spawn([process.execPath, cli, "run", ...options, ...idle, "--", ...program], {
  env: environment,
  stdio: ["ignore", "ignore", "inherit"],
});
try {
  await untilHealthy(url, run);
  for (const [index, prompt] of prompts.entries()) {
    const begun = performance.now();
    const text = await complete(prompt, url);
    const durationMs = Math.round(performance.now() - begun);
    if (text !== expected[index]) throw new Error(`"${text}" is not "${expected[index]}"`);
    console.log(`completion  "${text}" after ${durationMs} ms; ${await stateOf()}`);
    if (index > 0) continue;
    console.log("waiting     for one second without requests");
    await untilState("asleep");
    console.log(`idle        ${await stateOf()}`);
  }
  console.log("compared    the texts are those that it writes without camem");
} finally {
  run.kill("SIGTERM");
  await run.exited;
  rmSync(dirname(engine), { recursive: true });
}
