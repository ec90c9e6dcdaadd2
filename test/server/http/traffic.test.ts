/** Many requests over real HTTP across all kinds of transitions: each is answered correctly, and nothing accumulates. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator } from "camem";
import { type EngineStatus, ModelPool, SleepController } from "camem/server";
import { granulesBetween, onEmulator, setFaults, wholeGranules } from "../../support/device.ts";
import { FakeEngine, until } from "../../support/fake-engine.ts";
import { collectGarbage } from "../../support/runtime.ts";
import { TestServer } from "../../support/test-server.ts";

let allocator: CaMemAllocator;
let engine: FakeEngine;
let controller: SleepController;
let server: TestServer;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  engine = new FakeEngine(allocator);
  controller = new SleepController(allocator, {
    whenAsleep: "wake",
    whenOperatorAsleep: "wake",
    reload: () => engine.load(),
  });
  server = new TestServer(controller, { default: engine });
});

afterEach(async () => {
  await server.stop();
  await controller.close();
  await allocator.close();
});

interface Answer {
  readonly status: number;
  readonly isRight: boolean;
}

async function ask(index: number, length = 4 + (index % 13)): Promise<Answer> {
  const prompt = `prompt ${index}`;
  const query = new URLSearchParams({ prompt, length: String(length), ...(index % 2 && { stream: "" }) });
  const response = await server.fetch(`/complete?${query}`);
  const text = await response.text();
  return { status: response.status, isRight: text === engine.expected(prompt, length) };
}

const sleeps = [
  "/sleep?level=1&mode=keep",
  "/sleep?level=2&mode=wait",
  "/sleep?level=1&mode=wait&tags=kv_cache",
  "/sleep?level=2&mode=keep",
  "/sleep?level=0&mode=keep",
];

test("server answers 200 concurrent requests correctly across sleeps that requests undo", async () => {
  let over = false;
  const answers = Promise.all(Array.from({ length: 200 }, (_, index) => ask(index))).finally(() => {
    over = true;
  });
  const statuses: number[] = [];
  for (let cycle = 0; !over; cycle++) {
    const path = sleeps[cycle % sleeps.length] ?? "";
    statuses.push((await server.post(path)).status);
    if (controller.status.requests.parked > 0) await server.post("/wake_up");
    await sleep(1);
  }
  const settled = await answers;
  expect(settled.filter(({ status }) => status !== 200)).toEqual([]);
  expect(settled.filter(({ isRight }) => !isRight)).toEqual([]);
  expect(statuses.length).toBeGreaterThan(1);
  // The server may refuse only level 1 right after level 2.
  expect(statuses.filter((status) => status !== 200 && status !== 409)).toEqual([]);
  await controller.wakeUp();
  expect(controller.status).toMatchObject({
    state: "awake",
    requests: { running: 0, parked: 0, waiting: 0, admittedTotal: 200, refusedTotal: 0, abortedTotal: 0 },
  });
});

test("server answers or ends 200 concurrent requests across sleeps by an operator", async () => {
  await server.stop();
  await controller.close();
  controller = new SleepController(allocator, { whenAsleep: "hold" });
  server = new TestServer(controller, { default: engine });
  let over = false;
  const answers = Promise.all(
    Array.from({ length: 200 }, (_, index) => ask(index).catch(() => "cut" as const)),
  ).finally(() => {
    over = true;
  });
  await until(() => controller.status.requests.running > 0);
  expect((await server.post("/sleep?mode=abort")).status).toBe(200);
  while (!over) {
    await server.post("/wake_up?tags=weights");
    await server.post("/wake_up?tags=kv_cache");
    await sleep(2);
    await server.post(over ? "/wake_up" : "/sleep?mode=wait");
  }
  await server.post("/wake_up");
  const settled = await answers;
  // An aborted request ends with a cut connection or an error, never with a wrong text.
  const served = settled.filter((answer) => answer !== "cut" && answer.status === 200);
  expect(served.filter((answer) => answer !== "cut" && !answer.isRight)).toEqual([]);
  const { abortedTotal, admittedTotal, refusedTotal } = controller.status.requests;
  expect(200 - served.length).toBeLessThanOrEqual(abortedTotal);
  expect([admittedTotal, refusedTotal]).toEqual([200, 0]);
});

test("allocator and device agree on memory over cycles of every level", async () => {
  const { freeBytes } = allocator.memGetInfo();
  const cycle = async () => {
    expect((await ask(1)).isRight).toBe(true);
    await server.post("/sleep?level=1");
    const asleep = controller.usage();
    expect(asleep).toMatchObject({ weights: { state: "asleep" }, kv_cache: { state: "asleep" } });
    expect(
      granulesBetween(
        allocator.memGetInfo().freeBytes,
        freeBytes + engine.weights.sizeBytes + engine.cache.sizeBytes,
      ),
    ).toBe(0);
    await server.post("/wake_up?tags=weights");
    expect(granulesBetween(allocator.memGetInfo().freeBytes, freeBytes + engine.cache.sizeBytes)).toBe(0);
    await server.post("/wake_up?tags=kv_cache");
    expect(granulesBetween(allocator.memGetInfo().freeBytes, freeBytes)).toBe(0);
    expect(controller.usage()["weights"]).toMatchObject({ hostBytes: 0, state: "awake" });
  };
  for (let index = 0; index < 3; index++) await cycle();
  collectGarbage();
  const before = process.memoryUsage().rss;
  for (let index = 0; index < 30; index++) await cycle();
  collectGarbage();
  expect(process.memoryUsage().rss - before).toBeLessThan(64 * 2 ** 20);
  expect(controller.status.requests.running).toBe(0);
});

test("status is never awake while memory is asleep", async () => {
  const wrong: EngineStatus[] = [];
  controller.subscribe((event) => {
    if (event.type !== "state" || event.status.state !== "awake") return;
    const states = [engine.weights.state, engine.cache.state];
    if (states.some((state) => state !== "mapped")) wrong.push(event.status);
  });
  const verbs = [
    "/sleep?level=1",
    "/wake_up?tags=weights",
    "/sleep?level=2",
    "/wake_up?tags=kv_cache",
    "/wake_up",
  ];
  await Promise.all(
    Array.from({ length: 60 }, (_, index) => server.post(verbs[(index * 7) % verbs.length] ?? "")),
  );
  expect(wrong).toEqual([]);
  await controller.wakeUp();
  expect((await ask(3)).isRight).toBe(true);
});

test.if(onEmulator)("server loses no held request when calls of the device fail", async () => {
  for (const call of ["aclrtMallocPhysical", "aclrtMapMem", "aclrtMemcpyAsync", "aclrtMallocHost"]) {
    setFaults(`${call}:2=507899`);
    const slept = await server.post("/sleep?mode=wait");
    const answers = await Promise.all([0, 1, 2].map((index) => ask(index)));
    setFaults("");
    expect([200, 500]).toContain(slept.status);
    for (const { status, isRight } of answers)
      expect([status, isRight]).toEqual([status === 200 ? 200 : 503, status === 200]);
    expect((await ask(7)).isRight).toBe(true);
  }
});

test("pool answers 200 concurrent requests for two engines on a device for one", async () => {
  await controller.close();
  await server.stop();
  const toys = { a: engine, b: new FakeEngine(allocator, { prefix: "b/", seed: 9 }) };
  const controllers = (["a", "b"] as const).map(
    (name) => new SleepController(allocator, { name, tags: toys[name].tags }),
  );
  await controllers[1]?.sleep({ reason: "pool" });
  allocator.malloc(wholeGranules(allocator.memGetInfo().freeBytes), { tag: "sleep_persistent" });
  await using pool = new ModelPool(controllers, { minimumResidency: 20 });
  server = new TestServer(pool, toys);
  const answers = await Promise.all(
    Array.from({ length: 200 }, async (_, index) => {
      const model = index % 3 ? "a" : "b";
      await sleep(index);
      const response = await server.fetch(`/complete?model=${model}&prompt=${index}`);
      return (await response.text()) === toys[model].expected(String(index), 8);
    }),
  );
  expect(answers.every(Boolean)).toBe(true);
  for (const each of controllers) await each.close();
});
