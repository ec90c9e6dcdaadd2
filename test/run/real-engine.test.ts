/** `camem run` with an engine that allocates by itself, the library as it ships, and the command as users call it. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { processesWith } from "../../src/process/family.ts";
import { buildLinkedEngine, engineEnvironment } from "../engine/linked.ts";
import { freePort } from "./run-fixture.ts";

let engine = "";

beforeAll(() => {
  engine = buildLinkedEngine();
}, 300_000);

afterAll(() => rmSync(dirname(engine), { recursive: true }));

const body = JSON.stringify({ prompt: "once upon", max_tokens: 12 });

async function complete(url: string): Promise<string> {
  const response = await fetch(`${url}/v1/completions`, { method: "POST", body });
  return response.ok ? await response.text() : `${response.status} ${await response.text()}`;
}

async function answers(url: string): Promise<boolean> {
  return await fetch(`${url}/health`).then(
    (response) => response.ok,
    () => false,
  );
}

class Command implements AsyncDisposable {
  readonly url: string;
  readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;

  constructor(command: (enginePort: number) => readonly string[], more: readonly string[] = []) {
    const [port, enginePort] = [freePort(), freePort()];
    this.url = `http://127.0.0.1:${port}`;
    const upstream = `http://127.0.0.1:${enginePort}`;
    const main = join(import.meta.dir, "../../src/cli/main.ts");
    const options = [
      "--listen",
      `127.0.0.1:${port}`,
      "--upstream",
      upstream,
      "--ready-path",
      "/health",
      ...more,
    ];
    this.child = Bun.spawn([process.execPath, main, "run", ...options, "--", ...command(enginePort)], {
      env: { ...process.env, ...engineEnvironment },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
  }

  async untilReady(): Promise<void> {
    while (!(await answers(this.url))) await Bun.sleep(10);
  }

  /** Puts the engine to sleep as soon as the command has connected to it. */
  async sleep(): Promise<void> {
    while (!(await fetch(`${this.url}/sleep`, { method: "POST" })).ok) await Bun.sleep(20);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill("SIGTERM");
    await this.child.exited;
  }
}

test("camem run keeps every text of an unmodified engine over sleeps by hand and on demand", async () => {
  const barePort = freePort();
  const bare = Bun.spawn([engine, "--port", String(barePort)], {
    env: { ...process.env, ...engineEnvironment },
    stdio: ["ignore", "ignore", "ignore"],
  });
  const bareUrl = `http://127.0.0.1:${barePort}`;
  while (!(await answers(bareUrl))) await Bun.sleep(10);
  await using command = new Command((port) => [engine, "--port", String(port)]);
  await command.untilReady();
  const state = async () => {
    const usage = (await (await fetch(`${command.url}/camem/usage`)).json()) as {
      engines: { engine: { status: { state: string }; tags: { default: { mappedBytes: number } } } };
    };
    return usage.engines.engine;
  };
  for (let round = 0; round < 3; round++) {
    await command.sleep();
    const asleep = await state();
    expect([asleep.status.state, asleep.tags.default.mappedBytes]).toEqual(["asleep", 0]);
    expect((await fetch(`${command.url}/v1/models`)).status).toBe(200);
    if (round === 1) await fetch(`${command.url}/wake_up`, { method: "POST" });
    // The first request wakes it.
    expect(await complete(command.url)).toBe(await complete(bareUrl));
    expect(await complete(command.url)).toBe(await complete(bareUrl));
  }
  bare.kill();
  command.child.kill("SIGTERM");
  expect(await command.child.exited).toBeOneOf([0, 143]);
}, 30_000);

test("camem run ends a sleeping engine at once when it gets SIGTERM", async () => {
  await using command = new Command((port) => [engine, "--port", String(port)]);
  await command.untilReady();
  await command.sleep();
  const begun = performance.now();
  command.child.kill("SIGTERM");
  await command.child.exited;
  expect(performance.now() - begun).toBeLessThan(5_000);
  expect(await new Response(command.child.stderr).text()).not.toContain("killing it");
}, 30_000);

test("camem run holds a request until somebody wakes the engine when it has --on-touch hold", async () => {
  await using command = new Command((port) => [engine, "--port", String(port)], ["--on-touch", "hold"]);
  await command.untilReady();
  await command.sleep();
  let answer = "";
  const held = complete(command.url).then((text) => {
    answer = text;
  });
  await Bun.sleep(100);
  expect(answer).toBe("");
  expect((await fetch(`${command.url}/wake_up`, { method: "POST" })).status).toBe(200);
  await held;
  expect(answer).toContain("text_completion");
}, 30_000);

test("camem run finds the engine behind a shell, and ends it with the shell", async () => {
  await using command = new Command((port) => ["sh", "-c", `${engine} --port ${port}; exit 9`]);
  await command.untilReady();
  await command.sleep();
  expect(await complete(command.url)).toContain("text_completion");
}, 30_000);

test("camem run controls the next engine when a script starts one again that died asleep", async () => {
  await using command = new Command((port) => [
    "sh",
    "-c",
    `for i in 1 2; do ${engine} --port ${port}; done`,
  ]);
  await command.untilReady();
  await command.sleep();
  const [pid] = processesWith("CAMEM_ENGINE_NAME", "sh").filter((each) => commandOf(each).includes(engine));
  process.kill(pid ?? 0, "SIGKILL");
  while (!(await complete(command.url)).includes("text_completion")) await Bun.sleep(50);
  await command.sleep();
  expect(await complete(command.url)).toContain("text_completion");
}, 30_000);

/** The program that a process runs. */
function commandOf(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0")[0] ?? "";
}

test("an engine goes on when camem run is killed", async () => {
  let enginePort = 0;
  await using command = new Command((port) => {
    enginePort = port;
    return [engine, "--port", String(port)];
  });
  await command.untilReady();
  await command.sleep();
  const report = await readReport(command.child.stderr);
  command.child.kill("SIGKILL");
  await command.child.exited;
  // Its own touch of the sleeping memory wakes it.
  expect(await complete(`http://127.0.0.1:${enginePort}`)).toContain("text_completion");
  process.kill(Number(/pid (\d+)/.exec(report)?.[1]), "SIGKILL");
}, 30_000);

/** What the command has told so far. */
async function readReport(stream: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  for await (const chunk of stream) {
    text += new TextDecoder().decode(chunk);
    if (text.includes("can sleep")) break;
  }
  return text;
}
