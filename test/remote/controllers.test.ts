/** What serves an engine in this process serves one in another process. */

import { afterEach, beforeAll, expect, test } from "bun:test";
import { CaMemAllocator, RemoteAllocator } from "camem";
import { registerMetrics } from "camem/metrics";
import { createHandler, IdleSleep, ModelPool, SleepController } from "camem/server";
import { Registry } from "prom-client";
import { buildControlProgram, type ControlProgram, startControlProgram } from "../support/control-program.ts";
import { MiB } from "../support/device.ts";
import { until } from "../support/fake-engine.ts";

const buildTimeoutMs = 300_000;

beforeAll(buildControlProgram, buildTimeoutMs);

const stack: AsyncDisposable[] = [];

afterEach(async () => {
  for (const each of stack.splice(0).reverse()) await each[Symbol.asyncDispose]();
});

interface Engine {
  readonly program: ControlProgram;
  readonly allocator: RemoteAllocator;
  readonly controller: SleepController;
}

async function startEngine(name: string, environment: Record<string, string> = {}): Promise<Engine> {
  const program = await startControlProgram(["default=40"], environment);
  stack.push(program);
  const allocator = await RemoteAllocator.connect({ path: program.path });
  stack.push(allocator);
  const controller = new SleepController(allocator, { name, whenAsleep: "wake" });
  stack.push({ [Symbol.asyncDispose]: () => controller.close() });
  return { program, allocator, controller };
}

test("ModelPool lets engines of several processes take turns on one device", async () => {
  const shared = { CAMEM_EMULATOR_SHARED: `remote-${process.pid}`, CAMEM_EMULATOR_HBM: "64MiB" };
  const first = await startEngine("first", shared);
  await first.controller.sleep({ reason: "pool" });
  const second = await startEngine("second", shared);
  const pool = new ModelPool([first.controller, second.controller], { minimumResidency: 0 });
  stack.push({ [Symbol.asyncDispose]: () => pool.close() });
  for (const name of ["first", "second", "first"]) {
    using _ = await pool.admit(name);
    const [awake, asleep] = name === "first" ? [first, second] : [second, first];
    expect([awake.allocator.isSleeping, asleep.allocator.isSleeping]).toEqual([false, true]);
    expect(await awake.program.tell("verify")).toBe("equal");
  }
});

test("IdleSleep puts an engine in another process to sleep, and a request wakes it", async () => {
  const { allocator, controller, program } = await startEngine("idle");
  const idle = new IdleSleep(controller, { ladder: [{ after: 20, level: 1 }] });
  await until(() => allocator.isSleeping);
  idle.close();
  using _ = await controller.admit();
  expect(allocator.isSleeping).toBe(false);
  expect(await program.tell("verify")).toBe("equal");
});

/** Values of all samples, by name and labels. */
async function samplesOf(registry: Registry): Promise<Map<string, number>> {
  const lines = (await registry.metrics()).split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.split(" ").at(-1))]));
}

const namesOf = (samples: Map<string, number>) =>
  [...new Set([...samples.keys()].map((sample) => sample.replace(/\{.*/, "")))].sort();

test("metrics of an engine in another process are those of one in this process", async () => {
  await using local = CaMemAllocator.getInstance({ backend: "emulator", hostBudget: "1GiB" });
  local.malloc(2 * MiB, { tag: "default" });
  await using localController = new SleepController(local, { name: "local", whenAsleep: "wake" });
  const localRegistry = new Registry();
  using _local = await registerMetrics(localRegistry, { engine: localController, allocator: local });

  const { allocator, controller } = await startEngine("measured");
  const registry = new Registry();
  using _remote = await registerMetrics(registry, { engine: controller, allocator });
  for (const each of [localController, controller]) {
    await each.sleep();
    await each.wakeUp();
    await each.sleep();
  }
  const samples = await samplesOf(registry);
  expect(namesOf(samples)).toEqual(namesOf(await samplesOf(localRegistry)));
  const { totalBytes, freeBytes } = allocator.memGetInfo();
  const figures = {
    'camem_engine_state{model_name="measured",state="asleep"}': 1,
    'camem_mapped_bytes{model_name="measured",tag="default"}': 0,
    'camem_host_bytes{model_name="measured",tag="default"}': 40 * MiB,
    'camem_segments{model_name="measured",tag="default"}': allocator.usage()["default"]?.segments,
    'camem_device_total_bytes{device="0"}': totalBytes,
    'camem_device_free_bytes{device="0"}': freeBytes,
    'camem_transition_duration_seconds_count{model_name="measured",operation="sleep",outcome="done"}': 2,
    'camem_transition_duration_seconds_count{model_name="measured",operation="wake",outcome="done"}': 1,
  };
  expect(Object.fromEntries(Object.keys(figures).map((name) => [name, samples.get(name)]))).toEqual(figures);
  expect(
    samples.get(
      'camem_transition_phase_seconds_total{model_name="measured",operation="sleep",phase="copying"}',
    ),
  ).toBeGreaterThan(0);
});

test("routes and metrics show and move the memory of an engine in another process", async () => {
  const { allocator, controller } = await startEngine("routed");
  const { routes } = createHandler({ engine: controller, loopbackOnly: true });
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", routes });
  const registry = new Registry();
  using _ = await registerMetrics(registry, { engine: controller, allocator });
  const answer = await globalThis.fetch(new URL("/sleep?level=1", server.url), { method: "POST" });
  expect(answer.status).toBe(200);
  expect(allocator.isSleeping).toBe(true);
  expect(await registry.metrics()).toMatch(new RegExp(`^camem_page_locked_bytes ${40 * MiB}$`, "m"));
  const usage = await (await globalThis.fetch(new URL("/camem/usage", server.url))).json();
  expect(usage).toMatchObject({ engines: { routed: { tags: { default: { hostBytes: 40 * MiB } } } } });
  await server.stop(true);
});
