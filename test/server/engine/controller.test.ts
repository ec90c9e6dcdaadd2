/** One engine: what it is doing, what its requests meet, and what each failure leaves. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { CaMemAllocator } from "camem";
import {
  type ControllerOptions,
  type EngineEvent,
  type EngineState,
  type Lease,
  SleepController,
} from "camem/server";
import { summaryOf } from "../../../src/server/engine/events.ts";
import { codeOf, failureOf, holdDevice, MiB, onEmulator, setFaults } from "../../support/device.ts";
import { ToyEngine, until } from "../../support/toy-engine.ts";

let allocator: CaMemAllocator;
let engine: ToyEngine;
let controller: SleepController;
let states: EngineState[];
let events: EngineEvent[];

function control(options: ControllerOptions = {}): SleepController {
  controller = new SleepController(allocator, options);
  states = [];
  events = [];
  controller.subscribe((event) => {
    events.push(event);
    if (event.type === "state" && event.status.state !== event.previous) states.push(event.status.state);
  });
  return controller;
}

async function complete(prompt = "once"): Promise<string> {
  using lease = await controller.admit();
  return await engine.complete(lease, prompt, 8);
}

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  engine = new ToyEngine(allocator);
  control();
});

afterEach(async () => {
  await controller.close();
  await allocator.close();
});

const expected = () => engine.expected("once", 8);

describe("sleep and wake", () => {
  test("the states of a cycle, and the same output", async () => {
    const { freeBytes } = allocator.memGetInfo();
    expect(await complete()).toBe(expected());
    expect(await controller.sleep()).toMatchObject({
      level: 1,
      alreadySleeping: false,
      report: { offloadedBytes: 4 * MiB },
    });
    expect(controller.status).toMatchObject({
      state: "asleep",
      level: 1,
      reason: "operator",
      sleepingTags: ["weights", "kv_cache"],
    });
    expect(controller.isSleeping).toBe(true);
    expect(allocator.memGetInfo().freeBytes).toBe(freeBytes + 10 * MiB);
    expect(await controller.wakeUp()).toMatchObject({ alreadyAwake: false, tags: null });
    expect(controller.status).toMatchObject({ state: "awake", level: null, reason: null, sleepingTags: [] });
    expect(allocator.memGetInfo().freeBytes).toBe(freeBytes);
    expect(await complete()).toBe(expected());
    expect(states).toEqual(["falling-asleep", "asleep", "waking", "awake"]);
  });

  test("level 0 pauses and frees nothing; waking and resuming both end it", async () => {
    const { freeBytes } = allocator.memGetInfo();
    for (const end of [() => controller.wakeUp({ tags: ["scheduling"] }), () => controller.resume()]) {
      await controller.sleep({ level: 0 });
      expect(controller.status).toMatchObject({ state: "paused", level: 0, paused: false });
      expect([controller.isSleeping, controller.isPaused]).toEqual([true, true]);
      expect(allocator.memGetInfo().freeBytes).toBe(freeBytes);
      expect(await codeOf(() => controller.admit())).toBe("ENGINE_UNAVAILABLE");
      expect(await controller.sleep({ level: 0 })).toMatchObject({ alreadySleeping: true });
      await end();
      expect(await complete()).toBe(expected());
    }
  });

  test("a no-op says so and can be told from a transition by its events too", async () => {
    expect(await controller.wakeUp()).toMatchObject({ alreadyAwake: true, report: null });
    await controller.sleep();
    expect(await controller.sleep()).toMatchObject({ level: 1, alreadySleeping: true, report: null });
    expect(await controller.sleep({ level: 0 })).toMatchObject({ level: 1, alreadySleeping: true });
    await controller.wakeUp();
    await controller.wakeUp();
    const outcomes = events.flatMap((event) => (event.type === "transition-ended" ? [event.outcome] : []));
    expect(outcomes).toEqual(["no-op", "done", "no-op", "no-op", "done", "no-op"]);
  });

  test("level 2 while asleep at 1 drops the backups", async () => {
    await controller.sleep();
    expect(allocator.usage()["weights"]?.hostBytes).toBe(4 * MiB);
    expect(await controller.sleep({ level: 2 })).toMatchObject({ level: 2, alreadySleeping: false });
    expect(allocator.usage()["weights"]).toMatchObject({ hostBytes: 0, discardedBytes: 4 * MiB });
    expect(controller.status.level).toBe(2);
    expect(await controller.sleep({ level: 2 })).toMatchObject({ alreadySleeping: true });
  });

  test("level 1 while asleep at 2 is an error that explains, and changes nothing", async () => {
    await controller.sleep({ level: 2 });
    const error = await failureOf(() => controller.sleep({ level: 1 }));
    expect(error.code).toBe("STATE_CONFLICT");
    expect(error.message).toContain("weights: asleep at level 2");
    expect(controller.status).toMatchObject({ state: "asleep", level: 2 });
    expect(await controller.sleep({ level: 1, tags: ["kv_cache"] })).toMatchObject({ alreadySleeping: true });
  });

  test("sleeping again after only the cache was woken works", async () => {
    await controller.sleep();
    await controller.wakeUp({ tags: ["kv_cache"] });
    expect(controller.status).toMatchObject({ state: "asleep", level: 1, sleepingTags: ["weights"] });
    expect(await controller.wakeUp({ tags: ["kv_cache"] })).toMatchObject({ alreadyAwake: true });
    expect(states).toEqual(["falling-asleep", "asleep", "waking", "asleep"]);
    expect(await controller.sleep()).toMatchObject({ alreadySleeping: false });
    await controller.wakeUp();
    expect(await complete()).toBe(expected());
  });

  test("a wake-up of the weights alone admits nobody, and each step takes its share of memory", async () => {
    const { freeBytes } = allocator.memGetInfo();
    await controller.sleep();
    await controller.wakeUp({ tags: ["weights"] });
    expect(allocator.memGetInfo().freeBytes).toBe(freeBytes + 6 * MiB);
    expect(controller.status).toMatchObject({ state: "asleep", sleepingTags: ["kv_cache"] });
    expect(controller.isSleeping).toBe(true);
    expect(await codeOf(() => controller.admit())).toBe("ENGINE_UNAVAILABLE");
    await controller.wakeUp({ tags: ["kv_cache"] });
    expect(controller.isSleeping).toBe(false);
    expect(await complete()).toBe(expected());
  });

  test("calls made at once take turns", async () => {
    const results = await Promise.all([
      controller.sleep(),
      controller.sleep(),
      controller.wakeUp(),
      controller.sleep({ level: 2 }),
      controller.wakeUp(),
      controller.wakeUp(),
    ]);
    expect(results.map((result) => "alreadySleeping" in result && result.alreadySleeping)).toEqual([
      false,
      true,
      false,
      false,
      false,
      false,
    ]);
    expect(results[5]).toMatchObject({ alreadyAwake: true });
    expect(controller.status.state).toBe("awaiting-weights");
  });

  test("a sleep of a tag leaves the rest awake, and admits nobody", async () => {
    await controller.sleep({ level: 1, tags: ["kv_cache"] });
    expect(controller.status).toMatchObject({ state: "asleep", sleepingTags: ["kv_cache"] });
    expect(engine.weights.state).toBe("mapped");
    expect(await codeOf(() => controller.admit())).toBe("ENGINE_UNAVAILABLE");
  });

  test("memory does not grow over cycles", async () => {
    const { freeBytes } = allocator.memGetInfo();
    for (let cycle = 0; cycle < 5; cycle++) {
      await controller.sleep({ level: cycle % 2 ? 2 : 1 });
      await controller.wakeUp({ tags: ["weights"] });
      if (cycle % 2) engine.load();
      await controller.confirmWeights();
      await controller.wakeUp();
      expect(await complete()).toBe(expected());
      expect(allocator.memGetInfo().freeBytes).toBe(freeBytes);
    }
    expect(controller.status.requests).toMatchObject({ running: 0, parked: 0, waiting: 0, admittedTotal: 5 });
  });

  test("an engine without memory sleeps and wakes all the same", async () => {
    await controller.close();
    const empty = control({ tags: { weights: "empty/weights" } });
    expect(await empty.sleep()).toMatchObject({ alreadySleeping: false });
    expect(empty.status.state).toBe("asleep");
    expect(await empty.sleep()).toMatchObject({ alreadySleeping: true });
    expect(await empty.wakeUp()).toMatchObject({ alreadyAwake: false });
    expect(empty.status.state).toBe("awake");
  });
});

describe("lost weights", () => {
  test("after level 2 requests are refused until the weights are confirmed", async () => {
    await controller.sleep({ level: 2 });
    expect(await codeOf(() => controller.confirmWeights())).toBe("STATE_CONFLICT");
    await controller.wakeUp();
    expect(controller.status).toMatchObject({ state: "awaiting-weights", awaitingTags: ["weights"] });
    expect(controller.isSleeping).toBe(false);
    expect(await codeOf(() => controller.admit())).toBe("ENGINE_UNAVAILABLE");
    engine.load();
    await controller.confirmWeights();
    expect(await complete()).toBe(expected());
    await controller.confirmWeights();
  });

  test("they can be loaded before the cache is woken", async () => {
    await controller.sleep({ level: 2 });
    await controller.wakeUp({ tags: ["weights"] });
    engine.load();
    await controller.confirmWeights();
    expect(controller.status).toMatchObject({ state: "asleep", awaitingTags: [] });
    await controller.wakeUp({ tags: ["kv_cache"] });
    expect(await complete()).toBe(expected());
  });

  test("waking the cache first reads nothing into weights that are unmapped", async () => {
    await controller.sleep({ level: 2 });
    await controller.wakeUp({ tags: ["kv_cache"] });
    expect(engine.weights.state).toBe("discarded");
    expect(controller.status).toMatchObject({ state: "asleep", sleepingTags: ["weights"] });
    expect(await codeOf(() => controller.confirmWeights())).toBe("STATE_CONFLICT");
    await controller.wakeUp();
    expect(controller.status.state).toBe("awaiting-weights");
  });

  test("a lighter sleep and wake-up in between does not make garbage pass for weights", async () => {
    await controller.sleep({ level: 2 });
    await controller.wakeUp();
    await controller.sleep({ level: 1 });
    expect(await codeOf(() => controller.confirmWeights())).toBe("STATE_CONFLICT");
    await controller.wakeUp();
    expect(controller.status.state).toBe("awaiting-weights");
  });

  test("reload runs when the weights are awake, and before any request", async () => {
    await controller.close();
    const calls: string[] = [];
    control({
      whenAsleep: "wake",
      whenOperatorAsleep: "wake",
      reload: async ({ tags }) => {
        calls.push(`${tags} ${engine.weights.state} ${controller.status.state}`);
        await Bun.sleep(5);
        engine.load();
      },
    });
    await controller.sleep({ level: 2 });
    expect(await Promise.all([complete(), complete()])).toEqual([expected(), expected()]);
    expect(calls).toEqual(["weights mapped awaiting-weights"]);
    expect(states).toEqual(["falling-asleep", "asleep", "waking", "awaiting-weights", "awake"]);
  });

  test("a reload that throws leaves the engine asleep, and the next wake-up tries again", async () => {
    await controller.close();
    let attempts = 0;
    control({
      reload: () => {
        if (attempts++ === 0) throw new RangeError("no checkpoint");
        engine.load();
      },
    });
    const { freeBytes } = allocator.memGetInfo();
    await controller.sleep({ level: 2 });
    const error = await failureOf(() => controller.wakeUp());
    expect([error.code, error.cause]).toEqual(["HOOK_FAILED", new RangeError("no checkpoint")]);
    expect(controller.status).toMatchObject({ state: "asleep", level: 2 });
    expect(allocator.memGetInfo().freeBytes).toBe(freeBytes + 10 * MiB);
    await controller.wakeUp();
    expect(await complete()).toBe(expected());
  });
});

describe("requests", () => {
  test("one that meets a sleeping engine is refused with a time to come again", async () => {
    await controller.sleep();
    const error = await failureOf(() => controller.admit());
    expect(error).toMatchObject({ code: "ENGINE_UNAVAILABLE", retryAfterSeconds: 5 });
    expect(error.message).toContain("asleep at level 1");
    expect(controller.status.requests.refusedTotal).toBe(1);
  });

  test("one that is held enters when somebody wakes the engine", async () => {
    await controller.close();
    control({ whenAsleep: "hold" });
    await controller.sleep();
    const held = complete();
    await until(() => controller.status.requests.waiting === 1);
    await controller.wakeUp({ tags: ["weights"] });
    expect(controller.status.requests.waiting).toBe(1);
    await controller.wakeUp();
    expect(await held).toBe(expected());
  });

  test("one that is held longer than its deadline is refused, and nothing has changed", async () => {
    await controller.close();
    control({ whenAsleep: "hold" });
    await controller.sleep();
    const error = await failureOf(() => controller.admit(undefined, { deadlineMs: 5 }));
    expect(error).toMatchObject({ code: "ENGINE_UNAVAILABLE", retryAfterSeconds: 5 });
    expect(controller.status).toMatchObject({ state: "asleep", requests: { waiting: 0, refusedTotal: 1 } });
  });

  test("one whose client goes away loses its place", async () => {
    await controller.close();
    control({ whenAsleep: "hold" });
    await controller.sleep();
    const client = new AbortController();
    const held = codeOf(() => controller.admit(client.signal));
    await until(() => controller.status.requests.waiting === 1);
    client.abort();
    expect(await held).toBe("ABORTED");
    expect(controller.status.requests).toMatchObject({ waiting: 0, refusedTotal: 0 });
    await controller.wakeUp();
    expect(controller.status.requests.running).toBe(0);
  });

  test("the queue has a limit", async () => {
    await controller.close();
    control({ whenAsleep: "hold", queueLimit: 1 });
    await controller.sleep();
    const held = complete();
    await until(() => controller.status.requests.waiting === 1);
    expect(await failureOf(() => controller.admit())).toMatchObject({
      code: "QUEUE_FULL",
      retryAfterSeconds: 5,
    });
    await controller.wakeUp();
    await held;
  });

  test("one wakes a sleeping engine, but not one that an operator put to sleep", async () => {
    await controller.close();
    control({ whenAsleep: "wake" });
    await controller.sleep({ reason: "idle" });
    expect(await complete()).toBe(expected());
    await controller.sleep();
    expect(await codeOf(() => controller.admit(undefined, { deadlineMs: 5 }))).toBe("ENGINE_UNAVAILABLE");
    expect(controller.status.state).toBe("asleep");
  });

  test("one wakes no engine whose weights nobody would load", async () => {
    await controller.close();
    control({ whenAsleep: "wake" });
    await controller.sleep({ level: 2, reason: "idle" });
    expect(await codeOf(() => controller.admit())).toBe("ENGINE_UNAVAILABLE");
    expect(states).toEqual(["falling-asleep", "asleep"]);
  });

  test("one whose client goes away in the moment of waking leaves no lease behind", async () => {
    await controller.close();
    control({ whenAsleep: "hold" });
    await controller.sleep();
    const client = new AbortController();
    const held = codeOf(() => controller.admit(client.signal));
    controller.subscribe((event) => {
      if (event.type === "state" && event.status.state === "awake") client.abort();
    });
    await controller.wakeUp();
    expect(await held).toBe("ABORTED");
    expect(controller.status.requests).toMatchObject({ running: 0, waiting: 0, admittedTotal: 0 });
  });

  test("one that comes as a wake-up for another, whose client has gone, is called off wakes the engine all the same", async () => {
    for (let turns = 0; turns < 12; turns++) {
      await controller.close();
      control({ whenAsleep: "wake", holdDeadlineMs: 1000 });
      const client = new AbortController();
      const following = Promise.withResolvers<Lease>();
      controller.subscribe((event) => {
        if (event.type !== "state" || event.status.state !== "asleep") return;
        queueMicrotask(async () => {
          client.abort();
          for (let turn = 0; turn < turns; turn++) await null;
          following.resolve(controller.admit());
        });
      });
      const sleep = controller.sleep({ reason: "idle" });
      while (controller.status.state !== "falling-asleep") await null;
      const gone = codeOf(() => controller.admit(client.signal));
      await sleep;
      expect(await gone).toBe("ABORTED");
      (await following.promise).release();
    }
  });

  test("an operator's sleep stays one when idleness deepens it, and becomes one when he repeats it", async () => {
    await controller.sleep({ reason: "idle" });
    expect(controller.status.reason).toBe("idle");
    await controller.sleep();
    expect(controller.status.reason).toBe("operator");
    await controller.sleep({ level: 2, reason: "idle" });
    expect(controller.status).toMatchObject({ reason: "operator", level: 2 });
  });

  test("a sleep that an operator asks for meanwhile is not undone by a request that came before", async () => {
    await controller.close();
    control({ whenAsleep: "wake" });
    await controller.sleep({ reason: "idle" });
    const operators = controller.sleep({ level: 2 });
    const held = codeOf(() => controller.admit(undefined, { deadlineMs: 20 }));
    await operators;
    expect(await held).toBe("ENGINE_UNAVAILABLE");
    expect(controller.status).toMatchObject({ state: "asleep", level: 2 });
  });

  test.if(onEmulator)(
    "those held for a wake-up that fails are told, and the next one tries again",
    async () => {
      await controller.close();
      control({ whenAsleep: "wake" });
      await controller.sleep({ reason: "idle" });
      setFaults("aclrtMallocPhysical:1=207001");
      const errors = await Promise.all([0, 1].map(() => failureOf(() => controller.admit())));
      setFaults("");
      expect(errors.map((error) => error.code)).toEqual(["ENGINE_UNAVAILABLE", "ENGINE_UNAVAILABLE"]);
      expect(errors[0]?.cause).toMatchObject({ code: "OUT_OF_DEVICE_MEMORY" });
      expect(controller.status).toMatchObject({ state: "asleep", requests: { waiting: 0 } });
      expect(await complete()).toBe(expected());
    },
  );
});

describe("requests in flight", () => {
  test("mode abort ends them and waits until they have ended", async () => {
    const lease = await controller.admit();
    const slept = controller.sleep({ mode: "abort" });
    await until(() => lease.signal.aborted);
    expect(lease.signal.reason).toMatchObject({ code: "ABORTED" });
    await Bun.sleep(5);
    expect(controller.status).toMatchObject({ state: "falling-asleep", requests: { running: 1 } });
    expect(engine.weights.state).toBe("mapped");
    lease.release();
    lease.release();
    await slept;
    expect(controller.status.requests).toMatchObject({ running: 0, abortedTotal: 1 });
  });

  test("mode wait lets them finish, and admits no other", async () => {
    const lease = await controller.admit();
    const slept = controller.sleep({ mode: "wait" });
    await until(() => controller.status.state === "falling-asleep");
    expect(await codeOf(() => controller.admit())).toBe("ENGINE_UNAVAILABLE");
    expect(await engine.complete(lease, "once", 8)).toBe(expected());
    expect(lease.signal.aborted).toBe(false);
    expect(controller.status.state).toBe("falling-asleep");
    lease.release();
    expect(await slept).toMatchObject({ alreadySleeping: false });
  });

  test("mode keep parks them, and they go on with the same output", async () => {
    const lease = await controller.admit();
    const letters: string[] = [];
    const done = (async () => {
      for await (const letter of engine.generate(lease, "once", 300)) letters.push(letter);
      lease.release();
    })();
    await until(() => letters.length > 3);
    await controller.sleep({ mode: "keep" });
    const written = letters.length;
    expect(controller.status.requests).toMatchObject({ running: 0, parked: 1 });
    await controller.wakeUp({ tags: ["kv_cache"] });
    await Bun.sleep(5);
    expect(letters.length).toBe(written);
    expect(written).toBeLessThan(300);
    await controller.wakeUp();
    await done;
    expect(letters.join("")).toBe(engine.expected("once", 300));
    expect(controller.status.requests).toMatchObject({ running: 0, parked: 0, abortedTotal: 0 });
  });

  test("a checkpoint passes at once while awake, and in a pause tells of no loss", async () => {
    using lease = await controller.admit();
    expect(await lease.checkpoint()).toEqual({ parked: false, lostTags: [] });
    const paused = controller.pause({ mode: "keep" });
    await until(() => controller.status.state === "paused");
    const checkpoint = lease.checkpoint();
    await paused;
    await controller.resume();
    expect(await checkpoint).toEqual({ parked: true, lostTags: [] });
  });

  test("what two wake-ups lose in parts is told together, and reloaded weights are not lost", async () => {
    using lease = await controller.admit();
    const slept = controller.sleep({ mode: "keep", level: 2 });
    await until(() => controller.status.state === "falling-asleep");
    const checkpoint = lease.checkpoint();
    await slept;
    await controller.wakeUp({ tags: ["weights"] });
    engine.load();
    await controller.confirmWeights();
    await controller.wakeUp();
    expect(await checkpoint).toEqual({ parked: true, lostTags: ["kv_cache"] });
  });

  test("a parked request ends with its client, and a deeper sleep in mode abort ends it too", async () => {
    const client = new AbortController();
    const first = await controller.admit(client.signal);
    const second = await controller.admit();
    const slept = controller.sleep({ mode: "keep" });
    await until(() => controller.status.state === "falling-asleep");
    const checkpoints = [first, second].map((lease) => codeOf(() => lease.checkpoint()));
    await slept;
    client.abort();
    expect(await checkpoints[0]).toBe("ABORTED");
    first.release();
    await controller.sleep({ level: 2, mode: "abort" });
    expect(await checkpoints[1]).toBe("ABORTED");
    second.release();
    expect(await codeOf(() => second.checkpoint())).toBe("STATE_CONFLICT");
    expect(controller.status.requests).toMatchObject({ running: 0, parked: 0 });
  });

  test.each(["wait", "keep", "abort"] as const)(
    "a sleep in mode %s that they outlast is called off, and nothing has changed",
    async (mode) => {
      const lease = await controller.admit();
      const error = await failureOf(() => controller.sleep({ mode, deadlineMs: 5 }));
      expect(error.code).toBe("TIMED_OUT");
      expect(error.message).toContain("1 requests in flight");
      expect(controller.status).toMatchObject({ state: "awake", requests: { running: 1 } });
      expect(engine.weights.state).toBe("mapped");
      expect(await complete()).toBe(expected());
      lease.release();
      await controller.sleep({ mode, deadlineMs: 5 });
    },
  );

  test("a sleep that waits for them can be called off", async () => {
    using _lease = await controller.admit();
    const caller = new AbortController();
    const slept = codeOf(() => controller.sleep({ mode: "wait", signal: caller.signal }));
    await until(() => controller.status.state === "falling-asleep");
    caller.abort();
    expect(await slept).toBe("ABORTED");
    expect(await complete()).toBe(expected());
  });

  test("a sleep that cannot have its host memory disturbs nobody", async () => {
    await controller.close();
    await allocator.close();
    allocator = CaMemAllocator.getInstance({ hostBudget: 2 * MiB });
    engine = new ToyEngine(allocator);
    control();
    using lease = await controller.admit();
    expect(await codeOf(() => controller.sleep())).toBe("HOST_BUDGET_EXCEEDED");
    expect(lease.signal.aborted).toBe(false);
    expect(states).toEqual([]);
  });
});

describe("pause", () => {
  test("differs from sleep: neither undoes the other", async () => {
    await controller.pause();
    expect(controller.status).toMatchObject({ state: "paused", level: null, paused: true });
    expect([controller.isPaused, controller.isSleeping]).toEqual([true, false]);
    await controller.sleep();
    await controller.resume();
    expect(controller.status).toMatchObject({ state: "asleep", paused: false });
    await controller.pause();
    await controller.wakeUp();
    expect(controller.status.state).toBe("paused");
    await controller.resume();
    expect(await complete()).toBe(expected());
  });

  test("ends requests as its mode says, and one that they outlast changes nothing", async () => {
    const lease = await controller.admit();
    expect(await codeOf(() => controller.pause({ mode: "wait", deadlineMs: 5 }))).toBe("TIMED_OUT");
    expect(controller.status.state).toBe("awake");
    const paused = controller.pause();
    await until(() => lease.signal.aborted);
    lease.release();
    await paused;
    expect(controller.status.state).toBe("paused");
  });

  test("holds requests where that is configured", async () => {
    await controller.close();
    control({ whenAsleep: "wake" });
    await controller.pause();
    const held = complete();
    await until(() => controller.status.requests.waiting === 1);
    expect(controller.status.state).toBe("paused");
    await controller.resume();
    expect(await held).toBe(expected());
  });
});

describe("failures", () => {
  test.if(onEmulator)("a failed wake-up leaves the engine asleep, and works when there is room", async () => {
    await controller.sleep();
    setFaults("aclrtMapMem:1=507899");
    expect(await codeOf(() => controller.wakeUp())).toBe("ACL_CALL_FAILED");
    setFaults("");
    expect(controller.status).toMatchObject({ state: "asleep", level: 1 });
    expect(events.at(-1)).toMatchObject({
      type: "transition-ended",
      outcome: "failed",
      failure: { code: "ACL_CALL_FAILED" },
    });
    await controller.wakeUp();
    expect(await complete()).toBe(expected());
  });

  test.if(onEmulator)("a failed sleep leaves the engine awake and serving", async () => {
    setFaults("aclrtMemcpyAsync:1=507899");
    expect(await codeOf(() => controller.sleep())).toBe("ACL_CALL_FAILED");
    setFaults("");
    expect(controller.status.state).toBe("awake");
    expect(await complete()).toBe(expected());
  });

  test("a hook that throws after a wake-up that took place leaves the engine awake, its losses known", async () => {
    const remove = allocator.onTransition({
      afterWake: () => {
        throw new RangeError("graph");
      },
    });
    await controller.sleep({ level: 2 });
    expect(await failureOf(() => controller.wakeUp())).toMatchObject({
      code: "HOOK_FAILED",
      transitionComplete: true,
    });
    remove();
    expect(controller.status).toMatchObject({ state: "awaiting-weights", sleepingTags: [] });
  });

  test.if(onEmulator)("a lost device makes it fail until a transition succeeds", async () => {
    await controller.sleep();
    setFaults("*:1+=507010");
    expect(await codeOf(() => controller.wakeUp())).toBe("DEVICE_LOST");
    expect(controller.status).toMatchObject({ state: "failed", level: 1, failure: { code: "DEVICE_LOST" } });
    expect(await codeOf(() => controller.admit())).toBe("ENGINE_UNAVAILABLE");
    expect(await controller.sleep()).toMatchObject({ alreadySleeping: true });
    expect(controller.status.state).toBe("failed");
    setFaults("");
    await controller.wakeUp();
    expect(controller.status).toMatchObject({ state: "awake", failure: null });
    expect(await complete()).toBe(expected());
  });

  test("an allocator that was closed makes it fail, and refuse requests", async () => {
    await allocator.close();
    expect(await codeOf(() => controller.sleep())).toBe("CLOSED");
    expect(controller.status).toMatchObject({ state: "failed", failure: { code: "CLOSED" } });
    expect(await codeOf(() => controller.admit())).toBe("ENGINE_UNAVAILABLE");
  });

  test("a hook and a reload that ask for a transition are refused instead of waiting for themselves", async () => {
    await controller.close();
    const codes: string[] = [];
    const attempt = async (run: () => Promise<unknown>) => codes.push(await codeOf(run));
    control({
      reload: async () => {
        await attempt(() => controller.wakeUp());
        await attempt(() => controller.confirmWeights());
        engine.load();
      },
    });
    const remove = allocator.onTransition({
      beforeSleep: async () => {
        await attempt(() => controller.pause());
        await attempt(() => controller.close());
      },
    });
    await controller.sleep({ level: 2 });
    await controller.wakeUp();
    remove();
    expect(codes).toEqual(Array(4).fill("CALLED_FROM_HOOK"));
  });

  test("bad input is refused and changes nothing", async () => {
    const bad: [() => unknown, string][] = [
      [() => controller.sleep({ level: 3 as 2 }), "UNKNOWN_LEVEL"],
      [() => controller.sleep({ mode: "kill" as "abort" }), "INVALID_ARGUMENT"],
      [() => controller.sleep({ tags: ["kv_cash"] }), "UNKNOWN_TAG"],
      [() => controller.sleep({ tags: "kv_cache" as never }), "INVALID_TAG"],
      [() => controller.sleep({ deadlineMs: -1 }), "INVALID_ARGUMENT"],
      [() => controller.wakeUp({ tags: ["kv_cash"] }), "UNKNOWN_TAG"],
      [() => controller.wakeUp({ level: 1 } as never), "INVALID_ARGUMENT"],
      [() => controller.wakeUp({ reason: "request" as "pool" }), "INVALID_ARGUMENT"],
      [() => controller.pause({ mode: "later" as "wait" }), "INVALID_ARGUMENT"],
      [() => controller.admit({} as AbortSignal), "INVALID_ARGUMENT"],
      [() => controller.admit(undefined, { deadlineMs: Number.NaN }), "INVALID_ARGUMENT"],
      [() => new SleepController(allocator, { whenAsleep: "later" as "hold" }), "INVALID_CONFIG"],
      [() => new SleepController(allocator, { reload: 1 as never }), "INVALID_CONFIG"],
      [() => new SleepController(allocator, { tags: { a: "x", b: "x" } }), "INVALID_CONFIG"],
      [() => new SleepController(allocator, { tags: { a: "" } }), "INVALID_TAG"],
      [() => new SleepController(allocator, { nap: 1 } as never), "INVALID_CONFIG"],
      [() => new SleepController(undefined as never), "INVALID_CONFIG"],
      [
        () => new SleepController(allocator, { tags: { weights: "x" }, weightTags: ["wights"] }),
        "INVALID_CONFIG",
      ],
      [() => controller.plan("sleep", { tags: "weights" as never }), "INVALID_TAG"],
      [() => controller.subscribe("console.log" as never), "INVALID_ARGUMENT"],
    ];
    for (const [call, code] of bad) expect([String(call), await codeOf(call)]).toEqual([String(call), code]);
    expect(events).toEqual([]);
    expect(controller.status.state).toBe("awake");
  });

  test("memory that is asleep already is not taken over", async () => {
    await controller.sleep();
    expect(await codeOf(() => new SleepController(allocator))).toBe("STATE_CONFLICT");
  });
});

describe("events", () => {
  test("a failure that has no words for itself is told all the same", () => {
    expect(summaryOf(Object.create(null))).toEqual({ code: "UNKNOWN", message: "an object" });
    expect(summaryOf(undefined)).toEqual({ code: "UNKNOWN", message: "undefined" });
  });

  test("each transition starts once, tells its progress and ends once, in order", async () => {
    await controller.sleep();
    const types = events.map((event) => event.type).filter((type) => type !== "state");
    expect(types[0]).toBe("transition-started");
    expect(types.at(-1)).toBe("transition-ended");
    expect(types.slice(1, -1).every((type) => type === "transition-progress")).toBe(true);
    expect(types.length).toBeGreaterThan(2);
    expect(events.at(-1)).toMatchObject({
      engine: "default",
      id: 1,
      operation: "sleep",
      level: 1,
      reason: "operator",
      outcome: "done",
      report: { offloadedBytes: 4 * MiB },
    });
  });

  test("a listener that throws disturbs nobody, and one that starts a transition may", async () => {
    const warnings: string[] = [];
    const note = (warning: Error) => warnings.push(warning.message);
    process.on("warning", note);
    const woken = Promise.withResolvers<unknown>();
    const unsubscribe = controller.subscribe((event) => {
      if (event.type === "state" && event.status.state === "falling-asleep")
        woken.resolve(controller.wakeUp());
      throw new RangeError("display");
    });
    const unsubscribeLater = controller.subscribe(async () => {
      await null;
      throw new RangeError("asynchronous");
    });
    await controller.sleep();
    await woken.promise;
    unsubscribe();
    unsubscribeLater();
    expect(controller.status.state).toBe("awake");
    await until(() => warnings.some((warning) => warning.includes("asynchronous")));
    process.off("warning", note);
    expect(warnings[0]).toContain("display");
    await controller.sleep();
    expect(controller.status.state).toBe("asleep");
  });
});

describe("engines that share the allocator", () => {
  test("one sleeps and wakes without touching the other, and levels mean the same under its own names", async () => {
    await controller.close();
    const other = new ToyEngine(allocator, { prefix: "qwen/", seed: 5 });
    await using qwen = new SleepController(allocator, { name: "qwen", tags: other.tags });
    control({ tags: { weights: "weights", kv_cache: "kv_cache" } });
    expect(await qwen.sleep()).toMatchObject({
      report: { offloadedBytes: 4 * MiB, discardedBytes: 6 * MiB },
    });
    expect(Object.keys(qwen.usage())).toEqual(["weights", "kv_cache"]);
    expect(qwen.plan("wake").tags["weights"]?.restoreBytes).toBe(4 * MiB);
    expect(controller.status.state).toBe("awake");
    expect(await complete()).toBe(expected());
    await qwen.wakeUp({ tags: ["weights"] });
    await qwen.wakeUp({ tags: ["kv_cache"] });
    using lease = await qwen.admit();
    expect(await other.complete(lease, "once", 8)).toBe(other.expected("once", 8));
    expect(await codeOf(() => qwen.sleep({ tags: ["adapters"] }))).toBe("UNKNOWN_TAG");
  });
});

describe("closing", () => {
  test("while asleep: those held are refused, memory stays as it is", async () => {
    await controller.close();
    control({ whenAsleep: "hold" });
    await controller.sleep();
    const held = codeOf(() => controller.admit());
    await until(() => controller.status.requests.waiting === 1);
    await Promise.all([controller.close(), controller.close()]);
    expect(await held).toBe("CLOSED");
    expect(engine.weights.state).toBe("offloaded");
    for (const call of [
      () => controller.admit(),
      () => controller.sleep(),
      () => controller.wakeUp(),
      () => controller.resume(),
    ])
      expect(await codeOf(call)).toBe("CLOSED");
  });

  test("while moving: the transition is called off, requests in flight are told", async () => {
    const device = holdDevice();
    const slept = codeOf(() => controller.sleep());
    await until(() => engine.weights.state === "moving");
    const waiting = codeOf(() => controller.wakeUp());
    await controller.close();
    expect([await slept, await waiting]).toEqual(["CLOSED", "CLOSED"]);
    device.release();
    expect(engine.weights.read()).toEqual(engine.content);
  });

  test("while requests are in flight it waits for none", async () => {
    const lease = await controller.admit();
    const slept = codeOf(() => controller.sleep({ mode: "wait" }));
    await controller.close();
    expect(await slept).toBe("CLOSED");
    expect(lease.signal.reason).toMatchObject({ code: "CLOSED" });
    lease.release();
  });

  test("while a reload never ends", async () => {
    await controller.close();
    control({ reload: () => new Promise(() => undefined) });
    await controller.sleep({ level: 2 });
    const woken = codeOf(() => controller.wakeUp());
    await until(() => controller.status.state === "awaiting-weights");
    await controller.close();
    expect(await woken).toBe("CLOSED");
    expect(engine.weights.state).toBe("discarded");
  });
});
