/** Engines that share a device too small for all of them. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator, type CamemError, type DeviceBuffer } from "camem";
import { type ControllerOptions, ModelPool, type ModelPoolOptions, SleepController } from "camem/server";
import {
  codeOf,
  failureOf,
  granulesBetween,
  MiB,
  onEmulator,
  setFaults,
  wholeGranules,
} from "../../support/device.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { FakeEngine, until } from "../../support/fake-engine.ts";
import { TestServer } from "../../support/test-server.ts";

const names = ["a", "b", "c"] as const;
type Name = (typeof names)[number];

let allocator: CaMemAllocator;
let toys: Record<Name, FakeEngine>;
let engines: Record<Name, SleepController>;
let pool: ModelPool;
let clock: FakeClock;
let taken: DeviceBuffer;
/** Switches as they happen: "a sleeps", "b wakes". */
let log: string[];

/** Starts three engines of at least 10 MiB on a device with room for the first `room` of them, which are awake. */
async function start(
  room: number,
  options: ModelPoolOptions = {},
  controllerOptions: ControllerOptions = {},
  weightsBytes: Partial<Record<Name, number>> = {},
) {
  clock = new FakeClock();
  toys = {} as typeof toys;
  engines = {} as typeof engines;
  for (const [index, name] of names.entries()) {
    const sizes = { weightsBytes: weightsBytes[name] ?? 4 * MiB };
    toys[name] = new FakeEngine(allocator, { prefix: `${name}/`, seed: index + 1, ...sizes });
    engines[name] = new SleepController(allocator, { name, tags: toys[name].tags, ...controllerOptions });
  }
  for (const name of names.slice(room)) await engines[name].sleep({ reason: "pool" });
  const { freeBytes } = allocator.memGetInfo();
  taken = allocator.malloc(wholeGranules(freeBytes), { tag: "sleep_persistent" });
  pool = new ModelPool(Object.values(engines), { clock, minimumResidency: "1s", ...options });
  log = [];
  pool.subscribe((event) => {
    if (event.type !== "transition-ended" || event.outcome !== "done") return;
    log.push(`${event.engine} ${event.operation}s`);
  });
  clock.advance(1000);
}

async function complete(name: Name, prompt = "once"): Promise<boolean> {
  using lease = await pool.admit(name);
  return (await toys[name].complete(lease, prompt, 4)) === toys[name].expected(prompt, 4);
}

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
});

afterEach(async () => {
  setFaults("");
  await pool.close();
  for (const engine of Object.values(engines)) await engine.close();
  await allocator.close();
});

const states = () => names.map((name) => engines[name].status.state).join(" ");

test("admit() puts the least recently used engine to sleep and wakes the requested one", async () => {
  await start(2);
  expect(states()).toBe("awake awake asleep");
  expect(await complete("b")).toBe(true);
  clock.advance(10);
  expect(await complete("a")).toBe(true);
  expect(await complete("c")).toBe(true);
  expect(log).toEqual(["b sleeps", "c wakes"]);
  expect(states()).toBe("awake asleep awake");
  expect(engines.b.status.reason).toBe("pool");
  clock.advance(1000);
  expect(await complete("b")).toBe(true);
  expect(states()).toBe("asleep awake awake");
});

test("admit() puts no engine to sleep when there is room", async () => {
  await start(2);
  taken.free();
  expect(await complete("c")).toBe(true);
  expect(log).toEqual(["c wakes"]);
});

test("admit() prefers an idle engine to a busy one when it makes room", async () => {
  await start(2);
  const busy = await pool.admit("a");
  clock.advance(10);
  await complete("b");
  expect(await complete("c")).toBe(true);
  expect(states()).toBe("awake asleep awake");
  busy.release();
});

test("admit() puts as many engines to sleep as the wake-up needs", async () => {
  await start(2, {}, {}, { c: 12 * MiB });
  expect(await complete("c")).toBe(true);
  expect(states()).toBe("asleep asleep awake");
  clock.advance(1000);
  expect(await complete("a")).toBe(true);
  expect(states()).toBe("awake asleep asleep");
});

test("admit() lets an engine finish its requests before it makes room", async () => {
  await start(1);
  const lease = await pool.admit("a");
  const forB = complete("b");
  await until(() => engines.a.status.state === "falling-asleep");
  const late = complete("a");
  await sleep(5);
  expect(log).toEqual([]);
  expect(lease.signal.aborted).toBe(false);
  expect(await toys.a.complete(lease, "once", 4)).toBe(toys.a.expected("once", 4));
  lease.release();
  expect(await forB).toBe(true);
  expect(log).toEqual(["a sleeps", "b wakes"]);
  clock.advance(1000);
  expect(await late).toBe(true);
});

test("pool alternates with its minimum residency under load, and starves no request", async () => {
  await start(1);
  const results: Promise<boolean>[] = [];
  for (let round = 0; round < 40; round++) {
    results.push(complete(names[round % 3] ?? "a", `prompt ${round}`));
    clock.advance(100);
    await sleep(1);
  }
  // In 4 seconds, with a residency of one second, at most 5 switches can begin.
  expect(log.filter((line) => line.endsWith("wakes")).length).toBeLessThanOrEqual(5);
  const done = Promise.all(results);
  let over = false;
  void done.finally(() => {
    over = true;
  });
  while (!over) {
    clock.advance(100);
    await sleep(1);
  }
  expect((await done).every(Boolean)).toBe(true);
  expect(log.filter((line) => line.endsWith("wakes")).length).toBeLessThan(12);
});

test("engine stays awake for its minimum residency before it makes room", async () => {
  await start(1);
  expect(await complete("b")).toBe(true);
  const forA = complete("a");
  clock.advance(999);
  await sleep(20);
  expect(await complete("b")).toBe(true);
  expect(log).toEqual(["a sleeps", "b wakes"]);
  clock.advance(1);
  expect(await forA).toBe(true);
  expect(log.slice(2)).toEqual(["b sleeps", "a wakes"]);
});

test("admit() serves the longest waiting request next", async () => {
  await start(1);
  await complete("b");
  const order: string[] = [];
  const ask = (name: Name) => complete(name).then(() => order.push(name));
  const waiting = [ask("c"), ask("a"), ask("c")];
  let over = false;
  void Promise.all(waiting).finally(() => {
    over = true;
  });
  let more = 0;
  while (!over) {
    clock.advance(100);
    if (engines.b.status.state === "awake") more += Number(await complete("b"));
    await sleep(1);
  }
  expect(order).toEqual(["c", "c", "a"]);
  expect(more).toBeGreaterThan(0);
});

test("admit() does not wait for the residency of others when there is room", async () => {
  await start(1, { minimumResidency: "20s" }, {}, { c: 1 * MiB });
  taken.free();
  taken = allocator.malloc(wholeGranules(allocator.memGetInfo().freeBytes) - 8 * MiB, {
    tag: "sleep_persistent",
  });
  const first = complete("b");
  expect(await complete("c")).toBe(true);
  expect(log).toEqual(["c wakes"]);
  clock.advance(20_000);
  expect(await first).toBe(true);
  expect(states()).toBe("asleep awake awake");
});

test("all engines that make room stop admitting at once", async () => {
  await start(2, {}, {}, { c: 12 * MiB });
  const leases = [await pool.admit("a"), await pool.admit("b")];
  const forC = complete("c");
  await until(() => names.some((name) => engines[name].status.state === "falling-asleep"));
  const late = pool.admit(engines.a.status.state === "awake" ? "a" : "b");
  await sleep(5);
  expect(engines.a.status.requests.running + engines.b.status.requests.running).toBe(2);
  for (const lease of leases) lease.release();
  expect(await forC).toBe(true);
  clock.advance(1000);
  (await late).release();
});

test.if(onEmulator)("admit() wakes the engines that made room when the wake-up fails", async () => {
  await start(1);
  setFaults("aclrtMapMem:1=507899");
  const error = await failureOf(() => complete("b"));
  setFaults("");
  expect(error).toMatchObject({ code: "ENGINE_UNAVAILABLE", retryAfterSeconds: 5 });
  expect(error.cause).toMatchObject({ code: "ACL_CALL_FAILED" });
  expect(log).toEqual(["a sleeps", "a wakes"]);
  expect(states()).toBe("awake asleep asleep");
  expect(await complete("a")).toBe(true);
  clock.advance(1000);
  expect(await complete("b")).toBe(true);
});

test.if(onEmulator)(
  "pool reports when it cannot wake the engines that made room, and still serves requests",
  async () => {
    await start(1);
    setFaults("aclrtMapMem:1+=507899");
    const error = await failureOf(() => complete("b"));
    setFaults("");
    expect(error.code).toBe("ENGINE_UNAVAILABLE");
    expect((error.cause as Error).cause).toBeInstanceOf(AggregateError);
    expect(states()).toBe("asleep asleep asleep");
    expect(await complete("a")).toBe(true);
  },
);

test("admit() throws when the engine can never fit, and puts none to sleep", async () => {
  await start(1);
  await engines.a.sleep({ reason: "pool" });
  using more = allocator.malloc(4 * MiB, { tag: "sleep_persistent" });
  const error = await failureOf(() => complete("b"));
  expect(error.code).toBe("ENGINE_UNAVAILABLE");
  expect(error.cause).toMatchObject({ code: "OUT_OF_DEVICE_MEMORY" });
  expect(granulesBetween((error.cause as CamemError).sizeBytes ?? 0, 4 * MiB)).toBe(0);
  expect(log).toEqual(["a sleeps"]);
  more.free();
  expect(await complete("b")).toBe(true);
});

test("admit() enforces the queue limit, the deadline and disconnects", async () => {
  await start(1, { queueLimit: 1 });
  const lease = await pool.admit("a");
  const client = new AbortController();
  const gone = codeOf(() => pool.admit("b", client.signal));
  expect(await failureOf(() => pool.admit("c"))).toMatchObject({ code: "QUEUE_FULL", retryAfterSeconds: 5 });
  client.abort();
  expect(await gone).toBe("ABORTED");
  const late = failureOf(() => pool.admit("c", undefined, { deadlineMs: 50 }));
  clock.advance(50);
  expect(await late).toMatchObject({ code: "ENGINE_UNAVAILABLE", retryAfterSeconds: 5 });
  lease.release();
});

test("admit() does not wake an engine that an operator put to sleep or paused", async () => {
  await start(2);
  await engines.a.sleep();
  await engines.b.pause();
  expect(await codeOf(() => pool.admit("a"))).toBe("ENGINE_UNAVAILABLE");
  expect(await codeOf(() => pool.admit("b"))).toBe("ENGINE_UNAVAILABLE");
  expect(await complete("c")).toBe(true);
  expect(states()).toBe("asleep paused awake");
});

test("admit() wakes an engine that an operator put to sleep when configured to", async () => {
  await start(2, { wakeOperatorSleep: true });
  await engines.a.sleep();
  expect(await complete("a")).toBe(true);
});

test("admit() reloads engines that made room at level 2", async () => {
  const options: ControllerOptions = {
    reload: () => {
      for (const name of names) if (toys[name].weights.state === "mapped") toys[name].load();
    },
  };
  await start(1, { sleepLevel: 2 }, options);
  for (const name of ["b", "a", "b"] as const) {
    expect(await complete(name)).toBe(true);
    expect(engines[name === "a" ? "b" : "a"].status.level).toBe(2);
    clock.advance(1000);
  }
});

test("wakeUp() makes room at once, and for a tag only as much as it needs", async () => {
  await start(1);
  await complete("b");
  expect(states()).toBe("asleep awake asleep");
  expect(await pool.wakeUp("c")).toMatchObject({ alreadyAwake: false });
  expect(states()).toBe("asleep asleep awake");
  expect(await pool.wakeUp("c", { tags: ["scheduling"] })).toMatchObject({ alreadyAwake: true });
  expect(await codeOf(() => pool.wakeUp("d"))).toBe("UNKNOWN_MODEL");
});

test("admit() waits for the end of an operator's wake-up", async () => {
  await start(1);
  const woken = pool.wakeUp("b");
  await until(() => engines.a.status.state !== "awake");
  const forVictim = complete("a");
  await woken;
  clock.advance(1000);
  expect(await forVictim).toBe(true);
  expect(log).toEqual(["a sleeps", "b wakes", "b sleeps", "a wakes"]);
});

test("admit() waits for a switch that is running", async () => {
  await start(1);
  for (const move of [() => engines.a.sleep({ reason: "idle" }), () => pool.wakeUp("b")]) {
    const moved = move();
    await until(() => engines.a.status.state !== "awake");
    const request = complete("c");
    await moved;
    clock.advance(1000);
    expect(await request).toBe(true);
    await pool.wakeUp("a");
  }
});

test("admit() waits while an operator's wake-up reloads weights", async () => {
  const loaded = Promise.withResolvers<void>();
  await start(1, { sleepLevel: 2 }, { reload: () => loaded.promise });
  await engines.b.sleep({ level: 2, reason: "pool" });
  const woken = pool.wakeUp("b");
  await until(() => engines.b.status.state === "awaiting-weights");
  const request = complete("b");
  toys.b.load();
  loaded.resolve();
  expect(await request).toBe(true);
  await woken;
});

test.if(onEmulator)(
  "admit() serves the engines that made room when an operator's wake-up fails",
  async () => {
    await start(1);
    setFaults("aclrtMallocPhysical:1=207001");
    const woken = codeOf(() => pool.wakeUp("b"));
    await until(() => engines.a.status.state !== "awake");
    const forVictim = complete("a");
    expect(await woken).toBe("OUT_OF_DEVICE_MEMORY");
    expect(await forVictim).toBe(true);
    expect(states()).toBe("awake asleep asleep");
  },
);

test("server selects the engine by its model name", async () => {
  await start(1);
  await using server = new TestServer(pool, toys);
  const text = await (await server.fetch("/complete?model=b")).text();
  expect(text).toBe(toys.b.expected("once", 8));
  expect(states()).toBe("asleep awake asleep");
  expect(await server.json("/is_sleeping?model=a")).toEqual([200, { is_sleeping: true }]);
  expect(await server.json("/is_sleeping")).toEqual([200, { is_sleeping: false }]);
  expect(await server.postJson("/wake_up?model=a")).toEqual([200, { status: "awake", tags: null }]);
  expect(states()).toBe("awake asleep asleep");
  expect(await server.postJson("/sleep", { model: "a", level: 2 })).toEqual([
    200,
    { status: "sleeping", level: 2 },
  ]);
  expect(await server.json("/is_sleeping")).toEqual([200, { is_sleeping: true }]);
  expect(await server.postJson("/sleep")).toMatchObject([
    400,
    {
      error: {
        param: "model",
        reason: "INVALID_ARGUMENT",
        message: "model is missing; it must be one of a, b, c",
      },
    },
  ]);
  expect((await server.post("/sleep?model=d")).status).toBe(404);
  expect((await server.fetch("/complete?model=d")).status).toBe(404);
  const [, usage] = await server.json("/camem/usage");
  expect(usage).toMatchObject({
    engines: {
      a: { status: { state: "asleep", level: 2 } },
      b: {},
      c: { tags: { weights: { hostBytes: 4 * MiB } } },
    },
    devices: [{ device: 0 }],
  });
});

test("close() rejects waiting requests during a switch and leaves the engines open", async () => {
  await start(1);
  const lease = await pool.admit("a");
  const waiting = ["b", "b", "c"].map((name) => codeOf(() => pool.admit(name)));
  await until(() => engines.a.status.state === "falling-asleep");
  await pool.close();
  expect(await Promise.all(waiting)).toEqual(["CLOSED", "CLOSED", "CLOSED"]);
  expect(states()).toBe("awake asleep asleep");
  lease.release();
  expect(await codeOf(() => pool.admit("a"))).toBe("CLOSED");
  (await engines.a.admit()).release();
});

test("ModelPool refuses invalid input", async () => {
  await start(1);
  expect(await codeOf(() => pool.admit("d"))).toBe("UNKNOWN_MODEL");
  expect(await codeOf(() => pool.admit("a", undefined, { deadlineMs: -1 }))).toBe("INVALID_ARGUMENT");
  const bad: [unknown, unknown?][] = [
    [[]],
    [[engines.a, engines.a]],
    [[{}]],
    ["a"],
    [[engines.a], { sleepLevel: 0 }],
    [[engines.a], { evictionMode: "keep" }],
    [[engines.a], { minimumResidency: "long" }],
    [[engines.a], { queueLimit: -1 }],
    [[engines.a], { nap: true }],
  ];
  expect(() => new ModelPool([engines.a, engines.b, engines.a])).toThrow('have the name "a"');
  for (const [list, options] of bad)
    expect(await codeOf(() => new ModelPool(list as SleepController[], options as ModelPoolOptions))).toBe(
      "INVALID_CONFIG",
    );
});
