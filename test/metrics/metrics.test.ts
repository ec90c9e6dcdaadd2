/** Scrapes of camem/metrics before, during and after transitions, with the real prom-client. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { CaMemAllocator } from "camem";
import { type MetricsOptions, type MetricsRegistration, registerMetrics } from "camem/metrics";
import { ModelPool, SleepController } from "camem/server";
import { Registry } from "prom-client";
import {
  codeOf,
  failureOf,
  granulesBetween,
  holdDevice,
  MiB,
  onEmulator,
  setFaults,
} from "../support/device.ts";
import { FakeEngine, until } from "../support/fake-engine.ts";

const weightsBytes = 4 * MiB;
const cacheBytes = 6 * MiB;

let allocator: CaMemAllocator;
let toy: FakeEngine;
let engine: SleepController;
let registry: Registry;
let registration: MetricsRegistration;

beforeEach(async () => {
  // Without the option the budget follows the machine's free memory.
  allocator = CaMemAllocator.getInstance({ hostBudget: "1GiB" });
  toy = new FakeEngine(allocator, { weightsBytes, cacheBytes });
  engine = new SleepController(allocator, { name: "toy" });
  registry = new Registry();
  registration = await registerMetrics(registry, { engine, allocator });
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  registration.unregister();
  await engine.close();
  await allocator.close();
});

/** The samples of a scrape, by name and labels. */
async function scrape(from = registry): Promise<Record<string, number>> {
  const lines = (await from.metrics()).split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.split(" ").at(-1))]),
  );
}

const sleepState = (state: string) =>
  `vllm:engine_sleep_state{engine="0",model_name="toy",sleep_state="${state}"}`;
const ofTag = (metric: string, tag: string) => `camem_${metric}{model_name="toy",tag="${tag}"}`;

/** Compares the metrics of memory with the allocator's own figures. */
async function expectMemory(): Promise<void> {
  const samples = await scrape();
  const usage = allocator.usage();
  for (const [tag, memory] of Object.entries(usage)) {
    expect(samples[ofTag("mapped_bytes", tag)]).toBe(memory.mappedBytes);
    expect(samples[ofTag("host_bytes", tag)]).toBe(memory.hostBytes);
    expect(samples[ofTag("spilled_bytes", tag)]).toBe(memory.spilledBytes);
    expect(samples[ofTag("checkpoint_bytes", tag)]).toBe(memory.checkpointBytes);
    expect(samples[ofTag("discarded_bytes", tag)]).toBe(memory.discardedBytes);
    expect(samples[ofTag("segments", tag)]).toBe(memory.segments);
  }
  const host = allocator.hostUsage();
  expect(samples["camem_page_locked_bytes"]).toBe(host.pageLockedBytes);
  expect(samples["camem_page_locked_free_bytes"]).toBe(host.freeBytes);
  expect(samples["camem_page_locked_prepared_bytes"]).toBe(host.preparedBytes);
  const { freeBytes, totalBytes } = allocator.memGetInfo();
  expect(samples[`camem_device_free_bytes{device="${allocator.device}"}`]).toBe(freeBytes);
  expect(samples[`camem_device_total_bytes{device="${allocator.device}"}`]).toBe(totalBytes);
}

async function expectSleepState(
  expected: "awake" | "weights_offloaded" | "discard_all" | null,
): Promise<void> {
  const samples = await scrape();
  for (const state of ["awake", "weights_offloaded", "discard_all"])
    expect([state, samples[sleepState(state)]]).toEqual([state, state === expected ? 1 : 0]);
}

test("registerMetrics() exports every metric before the first transition, with zero counts", async () => {
  await expectSleepState("awake");
  await expectMemory();
  const samples = await scrape();
  expect(samples[ofTag("mapped_bytes", "weights")]).toBe(weightsBytes);
  expect(samples[ofTag("mapped_bytes", "kv_cache")]).toBe(cacheBytes);
  for (const operation of ["sleep", "wake"]) {
    expect(samples[`vllm:sleep_mode_operations_in_flight{operation="${operation}"}`]).toBe(0);
    expect(samples[`vllm:sleep_mode_operation_duration_seconds_count{operation="${operation}"}`]).toBe(0);
  }
});

test("sleep duration histogram has vLLM's buckets and labels", async () => {
  const text = await registry.metrics();
  const buckets = [
    ...text.matchAll(/vllm:sleep_mode_operation_duration_seconds_bucket\{le="([^"]+)",operation="wake"\}/g),
  ];
  expect(buckets.map(([, le]) => le)).toEqual([..."0.01 0.1 1 10 30 60 120 300 600 +Inf".split(" ")]);
  expect(text).toContain("# TYPE vllm:sleep_mode_operation_duration_seconds histogram");
  expect(text).toContain("# TYPE vllm:engine_sleep_state gauge");
  expect(text).toContain("# TYPE camem_requests_admitted_total counter");
});

const deviceFree = 'camem_device_free_bytes{device="0"}';

test("metrics report weights in host memory after level 1, and on the device after wake-up", async () => {
  const before = await scrape();
  await engine.sleep({ level: 1 });
  await expectSleepState("weights_offloaded");
  await expectMemory();
  const asleep = await scrape();
  expect(asleep[ofTag("mapped_bytes", "weights")]).toBe(0);
  expect(asleep[ofTag("host_bytes", "weights")]).toBe(weightsBytes);
  expect(asleep[ofTag("discarded_bytes", "kv_cache")]).toBe(cacheBytes);
  expect(asleep["camem_page_locked_bytes"]).toBeGreaterThanOrEqual(weightsBytes);
  const freed = (asleep[deviceFree] ?? 0) - (before[deviceFree] ?? 0);
  expect(granulesBetween(freed, weightsBytes + cacheBytes)).toBe(0);
  expect(asleep['vllm:sleep_mode_operation_duration_seconds_count{operation="sleep"}']).toBe(1);

  await engine.wakeUp();
  await expectSleepState("awake");
  await expectMemory();
  const awake = await scrape();
  expect(awake[ofTag("mapped_bytes", "weights")]).toBe(weightsBytes);
  expect(awake[ofTag("discarded_bytes", "kv_cache")]).toBe(0);
  expect(granulesBetween(awake[deviceFree] ?? 0, before[deviceFree] ?? 0)).toBe(0);
  expect(awake['vllm:sleep_mode_operation_duration_seconds_count{operation="wake"}']).toBe(1);
  expect(
    awake['camem_transition_phase_seconds_total{model_name="toy",operation="wake",phase="mapping"}'],
  ).toBeGreaterThan(0);
});

test("metrics report awake after level 2 only when the weights are loaded", async () => {
  await engine.sleep({ level: 2 });
  await expectSleepState("discard_all");
  await expectMemory();
  expect((await scrape())[ofTag("discarded_bytes", "weights")]).toBe(weightsBytes);

  await engine.wakeUp({ tags: ["weights"] });
  await expectSleepState("discard_all");
  await expectMemory();
  expect((await scrape())[ofTag("mapped_bytes", "weights")]).toBe(weightsBytes);

  await engine.wakeUp();
  await expectSleepState("discard_all");
  expect((await scrape())['camem_engine_state{model_name="toy",state="awaiting-weights"}']).toBe(1);

  toy.load();
  await engine.confirmWeights();
  await expectSleepState("awake");
  expect((await scrape())['camem_engine_state{model_name="toy",state="awake"}']).toBe(1);
});

test("metrics report level 0 as paused and as no sleep state of vLLM", async () => {
  await engine.sleep({ level: 0 });
  await expectSleepState(null);
  expect((await scrape())['camem_engine_state{model_name="toy",state="paused"}']).toBe(1);
});

test("metrics report a sleep in flight until it ends", async () => {
  const inFlight = 'vllm:sleep_mode_operations_in_flight{operation="sleep"}';
  const held = holdDevice();
  const slept = engine.sleep();
  await until(() => engine.status.state === "falling-asleep");
  const during = await scrape();
  expect(during[inFlight]).toBe(1);
  expect(during['vllm:sleep_mode_operations_in_flight{operation="wake"}']).toBe(0);
  expect(during['camem_engine_state{model_name="toy",state="falling-asleep"}']).toBe(1);
  expect(during[ofTag("mapped_bytes", "weights")]).toBe(weightsBytes);
  held.release();
  await slept;
  const after = await scrape();
  expect(after[inFlight]).toBe(0);
  expect(
    after['camem_transition_duration_seconds_count{model_name="toy",operation="sleep",outcome="done"}'],
  ).toBe(1);
});

test("metrics count a no-op apart from a transition", async () => {
  await engine.sleep();
  await engine.sleep();
  const samples = await scrape();
  const count = (outcome: string) =>
    samples[
      `camem_transition_duration_seconds_count{model_name="toy",operation="sleep",outcome="${outcome}"}`
    ];
  expect([count("done"), count("no-op")]).toEqual([1, 1]);
  expect(samples['vllm:sleep_mode_operation_duration_seconds_count{operation="sleep"}']).toBe(1);
});

test.skipIf(!onEmulator)(
  "metrics count a failed wake-up by its code and report unchanged memory",
  async () => {
    await engine.sleep();
    const before = await scrape();
    setFaults("aclrtMallocPhysical:2=207001");
    const { code } = await failureOf(() => engine.wakeUp());
    setFaults("");
    const samples = await scrape();
    expect(samples[`camem_transition_failures_total{model_name="toy",operation="wake",code="${code}"}`]).toBe(
      1,
    );
    expect(
      samples['camem_transition_duration_seconds_count{model_name="toy",operation="wake",outcome="failed"}'],
    ).toBe(1);
    expect(samples[ofTag("host_bytes", "weights")]).toBe(before[ofTag("host_bytes", "weights")] ?? 0);
    await expectSleepState("weights_offloaded");
    await expectMemory();
    await engine.wakeUp();
    await expectSleepState("awake");
  },
);

test.skipIf(!onEmulator)("scrape omits and counts the figures that it cannot read", async () => {
  setFaults("aclrtGetMemInfo:1=507899");
  const samples = await scrape();
  setFaults("");
  expect(Object.keys(samples).filter((name) => name.startsWith("camem_device_"))).toEqual([]);
  expect(Object.entries(samples).find(([name]) => name.startsWith("camem_scrape_failures_total"))?.[1]).toBe(
    1,
  );
  expect(samples[ofTag("mapped_bytes", "weights")]).toBe(weightsBytes);
  await expectMemory();
});

test("metrics report running, waiting, refused and completed requests", async () => {
  const requests = async (kind: string) => (await scrape())[`camem_requests_${kind}{model_name="toy"}`];
  const lease = await engine.admit();
  expect(await requests("running")).toBe(1);
  const slept = engine.sleep({ mode: "keep" });
  await until(() => engine.status.state === "falling-asleep");
  const parked = lease.checkpoint();
  await slept;
  expect([await requests("running"), await requests("parked")]).toEqual([0, 1]);
  expect(await codeOf(() => engine.admit())).toBe("ENGINE_UNAVAILABLE");
  await engine.wakeUp();
  await parked;
  lease.release();
  expect([await requests("running"), await requests("parked"), await requests("waiting")]).toEqual([0, 0, 0]);
  expect([await requests("admitted_total"), await requests("refused_total")]).toEqual([1, 1]);
});

test("metrics report requests by vLLM's names", async () => {
  await engine.close();
  registration.unregister();
  engine = new SleepController(allocator, { name: "toy", whenAsleep: "hold" });
  registration = await registerMetrics(registry, { engine, allocator });
  const requests = async () => {
    const samples = await scrape();
    return ["running", "waiting"].map(
      (kind) => samples[`vllm:num_requests_${kind}{engine="0",model_name="toy"}`],
    );
  };
  const lease = await engine.admit();
  expect(await requests()).toEqual([1, 0]);
  const slept = engine.sleep({ mode: "keep" });
  await until(() => engine.status.state === "falling-asleep");
  const parked = lease.checkpoint();
  await slept;
  const held = engine.admit();
  expect(await requests()).toEqual([0, 2]);
  await engine.wakeUp();
  await parked;
  (await held).release();
  lease.release();
  expect(await requests()).toEqual([0, 0]);
});

test("metrics report lost weights until they are loaded", async () => {
  const lost = async () => {
    const samples = await scrape();
    return ["weights", "kv_cache"].map((tag) => samples[ofTag("lost_content", tag)]);
  };
  await engine.sleep({ level: 2 });
  await engine.wakeUp();
  expect(await lost()).toEqual([1, 0]);
  toy.load();
  await engine.confirmWeights();
  expect(await lost()).toEqual([0, 0]);
});

test("metrics report the host budget", async () => {
  expect((await scrape())["camem_host_budget_bytes"]).toBe(2 ** 30);
});

test("scrape reads the table of segments once", async () => {
  let looks = 0;
  const watched: MetricsOptions["allocator"] = {
    hostUsage() {
      looks++;
      return allocator.hostUsage();
    },
  };
  const own = new Registry();
  using _registered = await registerMetrics(own, { engine, allocator: watched });
  await own.metrics();
  await own.metrics();
  expect(looks).toBe(2);
});

test("scrape counts nothing twice when repeated", async () => {
  await engine.sleep();
  const first = await scrape();
  expect(await scrape()).toEqual(first);
});

test("metrics label several engines and a pool by name in one registry", async () => {
  await engine.close();
  const twin = new FakeEngine(allocator, { prefix: "twin/", seed: 2 });
  await using first = new SleepController(allocator, {
    name: "first",
    tags: { weights: toy.tags.weights, kv_cache: toy.tags.kv_cache },
  });
  await using second = new SleepController(allocator, { name: "second", tags: twin.tags });
  const pool = new ModelPool([first, second]);
  for (const engines of [[first, second], pool]) {
    const own = new Registry();
    using _registered = await registerMetrics(own, { engine: engines, allocator });
    await second.sleep();
    const samples = await scrape(own);
    const state = (name: string, is: string) =>
      samples[`vllm:engine_sleep_state{engine="0",model_name="${name}",sleep_state="${is}"}`];
    expect([state("first", "awake"), state("second", "awake")]).toEqual([1, 0]);
    expect(state("second", "weights_offloaded")).toBe(1);
    expect(samples['camem_mapped_bytes{model_name="first",tag="weights"}']).toBe(weightsBytes);
    expect(samples['camem_mapped_bytes{model_name="second",tag="weights"}']).toBe(0);
    expect(samples['vllm:sleep_mode_operation_duration_seconds_count{operation="sleep"}']).toBe(1);
    await second.wakeUp();
  }
  await pool.close();
});

test("metrics report requests that wait in a pool, and count them as refused when the wake-up fails", async () => {
  await engine.close();
  await using own = new SleepController(allocator, { name: "pooled" });
  await using pool = new ModelPool([own], { queueLimit: 1 });
  const pooled = new Registry();
  using _registered = await registerMetrics(pooled, { engine: pool, allocator });
  const requests = async (kind: string) =>
    (await scrape(pooled))[`camem_requests_${kind}{model_name="pooled"}`];
  const held = holdDevice();
  const slept = own.sleep({ reason: "pool" });
  await until(() => own.status.state === "falling-asleep");
  expect(await codeOf(() => pool.admit("pooled", undefined, { deadlineMs: 1 }))).toBe("ENGINE_UNAVAILABLE");
  expect([await requests("waiting"), await requests("refused_total")]).toEqual([0, 1]);
  const waiting = pool.admit("pooled");
  expect(await requests("waiting")).toBe(1);
  expect(await codeOf(() => pool.admit("pooled"))).toBe("QUEUE_FULL");
  expect([await requests("waiting"), await requests("refused_total")]).toEqual([1, 2]);
  held.release();
  await slept;
  const lease = await waiting;
  expect([await requests("waiting"), await requests("running")]).toEqual([0, 1]);
  lease.release();
  await own.sleep();
  expect(await codeOf(() => pool.admit("pooled"))).toBe("ENGINE_UNAVAILABLE");
  expect(await requests("refused_total")).toBe(3);
});

test("custom labels are on every metric and must not repeat its labels", async () => {
  const own = new Registry();
  using _registered = await registerMetrics(own, { engine, allocator, labels: { cluster: "a" } });
  await engine.sleep();
  const names = Object.keys(await scrape(own));
  expect(names.filter((name) => !name.includes('cluster="a"'))).toEqual([]);
  expect(names.length).toBeGreaterThan(30);
  for (const labels of [{ tag: "x" }, { le: "x" }, { "not a name": "x" }])
    expect(await codeOf(() => registerMetrics(new Registry(), { engine, allocator, labels }))).toBe(
      "INVALID_CONFIG",
    );
});

test("registerMetrics() refuses a second registration and keeps the first", async () => {
  const { code, message } = await failureOf(() => registerMetrics(registry, { engine, allocator }));
  expect(code).toBe("STATE_CONFLICT");
  expect(message).toContain("vllm:sleep_mode_operation_duration_seconds");
  await engine.sleep();
  expect((await scrape())['vllm:sleep_mode_operation_duration_seconds_count{operation="sleep"}']).toBe(1);
});

test("registerMetrics() registers nothing when a name is taken", async () => {
  const own = new Registry();
  const { Gauge } = await import("prom-client");
  const stranger = new Gauge({ name: "camem_segments", help: "of somebody else", registers: [own] });
  expect(await codeOf(() => registerMetrics(own, { engine, allocator }))).toBe("STATE_CONFLICT");
  expect(own.getMetricsAsArray().map(({ name }) => name)).toEqual(["camem_segments"]);
  expect(own.getSingleMetric("camem_segments")).toBe(stranger);
});

test("unregister() removes every metric and unsubscribes from the engine", async () => {
  const failures = registry.getSingleMetric("camem_transition_failures_total");
  const duration = registry.getSingleMetric("camem_transition_duration_seconds");
  registration.unregister();
  registration.unregister();
  expect(await registry.metrics()).toBe("\n");
  await engine.sleep();
  expect(await codeOf(() => engine.sleep({ tags: ["weights"], level: 2, signal: AbortSignal.abort() }))).toBe(
    "ABORTED",
  );
  expect((await duration?.get())?.values).toEqual([]);
  expect((await failures?.get())?.values).toEqual([]);
  registration = await registerMetrics(registry, { engine, allocator });
  const samples = await scrape();
  expect(samples['vllm:sleep_mode_operation_duration_seconds_count{operation="sleep"}']).toBe(0);
  expect(samples[sleepState("weights_offloaded")]).toBe(1);
});

test("scrape reports no memory when the allocator is closed", async () => {
  await allocator.close();
  const samples = await scrape();
  expect(Object.keys(samples).filter((name) => name.startsWith("camem_mapped_bytes"))).toEqual([]);
  expect(samples["camem_page_locked_bytes"]).toBe(0);
  expect(Object.keys(samples).filter((name) => name.startsWith("camem_scrape_failures"))).toEqual([]);
});

test("registerMetrics() names the registry when it is none", async () => {
  for (const wrong of [undefined, null, {}, "registry", Registry]) {
    const error = await failureOf(() => registerMetrics(wrong as never, { engine, allocator }));
    expect(error).toMatchObject({ code: "INVALID_CONFIG", property: "registry" });
    expect(error.message).toContain("it must be a Registry of prom-client");
  }
});

test("registerMetrics() names the engine that it was given twice", async () => {
  const error = await failureOf(() => registerMetrics(registry, { engine: [engine, engine], allocator }));
  expect(error.message).toContain('two engines have the name "toy"');
});

test("registerMetrics() names invalid options", async () => {
  const bad: unknown[] = [
    {},
    { engine: "toy", allocator },
    { engine: [engine, "toy"], allocator },
    { engine: [engine, engine], allocator },
    { engine, allocator, labels: { cluster: 1 } },
    { engine, allocator, label: {} },
  ];
  for (const options of bad)
    expect(await codeOf(() => registerMetrics(registry, options as MetricsOptions))).toBe("INVALID_CONFIG");
});
