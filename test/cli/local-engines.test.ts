/** `camem sleep`, `wake` and `status` of engines on this machine. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BuiltEngine, buildEngine, EngineProcess, preloadLibrary } from "../engine/engine.ts";
import { outcomeOf } from "../support/program.ts";

const cli = join(import.meta.dir, "../../src/cli/main.ts");
const buildTimeoutMs = 300_000;

let built: BuiltEngine;
let engine: EngineProcess;
/** Nobody else's engines are listed: the variable overrides, and these tests do not look at other folders. */
let folder: string;

beforeAll(async () => {
  built = buildEngine();
  folder = mkdtempSync(join(tmpdir(), "camem-sockets-"));
  engine = await startEngine("llama");
  await engine.generate();
}, buildTimeoutMs);

afterAll(async () => {
  await engine[Symbol.asyncDispose]();
  rmSync(built.folder, { recursive: true });
  rmSync(folder, { recursive: true });
});

function startEngine(name: string, rules = ""): Promise<EngineProcess> {
  const environment = { CAMEM_SOCKET_DIR: folder, CAMEM_ENGINE_NAME: name, CAMEM_RULES: rules };
  return EngineProcess.start(built, { preload: preloadLibrary, environment });
}

/** The exit status, standard output and standard error. */
async function camem(...args: string[]): Promise<[number, string, string]> {
  const env = { ...process.env, CAMEM_SOCKET_DIR: folder };
  const { exitCode, stdout, stderr } = await outcomeOf([process.execPath, cli, ...args], { env });
  return [exitCode, stdout.trim(), stderr.trim()];
}

/** The entry of the engine in `camem status --json`. */
async function statusOf(target: string) {
  const [code, output] = await camem("status", target, "--json");
  expect(code).toBe(0);
  return JSON.parse(output).engines[0];
}

test("camem sleep and wake act on an engine by its name and by its process number", async () => {
  const { pid } = engine.process;
  const [code, output, progress] = await camem("sleep", "llama");
  expect([code, output]).toMatchObject([
    0,
    expect.stringMatching(/^asleep at level 1, [\d.]+ MiB of device memory freed$/),
  ]);
  expect(progress).toContain("llama: copying");
  expect(await statusOf("llama")).toMatchObject({ state: "asleep", status: { pid, gate: "asleep" } });
  expect((await camem("sleep", "llama")).slice(0, 2)).toEqual([0, "already asleep at level 1"]);
  expect((await camem("wake", String(pid))).slice(0, 2)).toEqual([0, "awake"]);
  expect((await camem("wake", String(pid))).slice(0, 2)).toEqual([0, "already awake"]);
  expect(await statusOf(String(pid))).toMatchObject({ state: "awake", status: { gate: "open" } });
});

test("camem status lists the engines with their process, state, memory by device and socket", async () => {
  const [code, output] = await camem("status");
  const { pid } = engine.process;
  expect(code).toBe(0);
  expect(output).toContain(`llama: awake; process ${pid}, ${join(folder, `${pid}.sock`)}\n  device 0: `);
  expect((await statusOf("llama")).devices).toMatchObject([{ device: 0 }, { device: 1 }]);
});

test("camem status --segments shows how each segment was written", async () => {
  const [code, output] = await camem("status", "llama", "--segments");
  expect(code).toBe(0);
  expect(output).toMatch(/^address +device +size +allocations +state +written +rule\n/);
  expect(output).toMatch(/^0x[0-9a-f]+ +0 +3 MiB +1 +mapped +host +none: offload$/m);
  expect(output).toContain("memset");
});

test("camem status --segments shows the rule that applies to each segment, and camem sleep obeys it", async () => {
  const rules = "size>=3MiB and written=host: immutable\nwritten=memset: discard";
  const ruled = await startEngine("ruled", rules);
  await using _ = ruled;
  await ruled.generate();
  await camem("sleep", "ruled");
  const [, output] = await camem("status", "ruled", "--segments");
  expect(output).toMatch(
    /^0x[0-9a-f]+ +0 +3 MiB .* offloaded +host +size>=3MiB and written=host: immutable$/m,
  );
  expect(output).toMatch(/^0x[0-9a-f]+ .* discarded +memset +written=memset: discard$/m);
  expect(output).toMatch(/ offloaded +host\+memset +none: offload$/m);
});

test("camem names the tags of an engine when it does not have the one given", async () => {
  for (const verb of ["sleep", "wake"]) {
    const [code, output, errors] = await camem(verb, "llama", "--tags", "weights");
    expect([code, output]).toEqual([1, ""]);
    expect(errors).toContain("the engine has no such tag; its tags are default");
  }
});

test("camem names the engines when it does not know one, and exits with 3", async () => {
  const [code, , errors] = await camem("sleep", "qwen");
  expect(code).toBe(3);
  expect(errors).toContain('there is no engine "qwen" on this machine: the engines are');
  expect(errors).toContain("llama");
});

test("camem refuses a name that two engines have, and options of servers", async () => {
  await using other = await startEngine("llama");
  await other.generate();
  const [code, , errors] = await camem("sleep", "llama");
  expect(code).toBe(1);
  expect(errors).toContain(`give the number of a process, one of `);
  expect((await camem("sleep", "llama", "--mode", "wait"))[0]).toBe(2);
  expect((await camem("status", "localhost:1", "--segments"))[0]).toBe(2);
});

test("camem status removes a socket whose process was killed, and shows one that does not answer", async () => {
  const killed = await startEngine("killed");
  await killed.generate();
  await killed[Symbol.asyncDispose]();
  const stopped = await startEngine("stopped");
  await using _ = stopped;
  await stopped.generate();
  stopped.process.kill("SIGSTOP");
  const [, output] = await camem("status");
  stopped.process.kill("SIGCONT");
  expect(output).not.toContain(`process ${killed.process.pid}`);
  expect(readdirSync(folder).sort()).toEqual(
    [`${stopped.process.pid}.sock`, `${engine.process.pid}.sock`].sort(),
  );
  expect(output).toContain(`process ${stopped.process.pid}: cannot connect`);
  expect(output).toContain("it does not answer");
});

test("camem refuses a path that is no control socket", async () => {
  const path = join(folder, "99999999.sock");
  writeFileSync(path, "");
  const [, output] = await camem("status");
  expect(output).not.toContain("99999999");
  rmSync(path);
});
