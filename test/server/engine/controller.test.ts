/** One engine: sleep, wake-up, pause, lost weights, and closing. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { SleepController } from "camem/server";
import { codeOf, failureOf, holdDevice, MiB } from "../../support/device.ts";
import { FakeEngine, until } from "../../support/fake-engine.ts";
import { ControllerFixture } from "./controller-fixture.ts";

let fixture: ControllerFixture;

beforeEach(() => {
  fixture = new ControllerFixture();
});

afterEach(() => fixture.close());

describe("sleep and wake", () => {
  test("the states of a cycle, and the same output", async () => {
    const { freeBytes } = fixture.allocator.memGetInfo();
    expect(await fixture.complete()).toBe(fixture.expected());
    expect(await fixture.controller.sleep()).toMatchObject({
      level: 1,
      alreadySleeping: false,
      report: { offloadedBytes: 4 * MiB },
    });
    expect(fixture.controller.status).toMatchObject({
      state: "asleep",
      level: 1,
      reason: "operator",
      sleepingTags: ["weights", "kv_cache"],
    });
    expect(fixture.controller.isSleeping).toBe(true);
    expect(fixture.allocator.memGetInfo().freeBytes).toBe(freeBytes + 10 * MiB);
    expect(await fixture.controller.wakeUp()).toMatchObject({ alreadyAwake: false, tags: null });
    expect(fixture.controller.status).toMatchObject({
      state: "awake",
      level: null,
      reason: null,
      sleepingTags: [],
    });
    expect(fixture.allocator.memGetInfo().freeBytes).toBe(freeBytes);
    expect(await fixture.complete()).toBe(fixture.expected());
    expect(fixture.states).toEqual(["falling-asleep", "asleep", "waking", "awake"]);
  });

  test("level 0 pauses and frees nothing; waking and resuming both end it", async () => {
    const { freeBytes } = fixture.allocator.memGetInfo();
    for (const end of [
      () => fixture.controller.wakeUp({ tags: ["scheduling"] }),
      () => fixture.controller.resume(),
    ]) {
      await fixture.controller.sleep({ level: 0 });
      expect(fixture.controller.status).toMatchObject({ state: "paused", level: 0, paused: false });
      expect([fixture.controller.isSleeping, fixture.controller.isPaused]).toEqual([true, true]);
      expect(fixture.allocator.memGetInfo().freeBytes).toBe(freeBytes);
      expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
      expect(await fixture.controller.sleep({ level: 0 })).toMatchObject({ alreadySleeping: true });
      await end();
      expect(await fixture.complete()).toBe(fixture.expected());
    }
  });

  test("a no-op says so and can be told from a transition by its events too", async () => {
    expect(await fixture.controller.wakeUp()).toMatchObject({ alreadyAwake: true, report: null });
    await fixture.controller.sleep();
    expect(await fixture.controller.sleep()).toMatchObject({ level: 1, alreadySleeping: true, report: null });
    expect(await fixture.controller.sleep({ level: 0 })).toMatchObject({ level: 1, alreadySleeping: true });
    await fixture.controller.wakeUp();
    await fixture.controller.wakeUp();
    const outcomes = fixture.events.flatMap((event) =>
      event.type === "transition-ended" ? [event.outcome] : [],
    );
    expect(outcomes).toEqual(["no-op", "done", "no-op", "no-op", "done", "no-op"]);
  });

  test("level 2 while asleep at 1 drops the backups", async () => {
    await fixture.controller.sleep();
    expect(fixture.allocator.usage()["weights"]?.hostBytes).toBe(4 * MiB);
    expect(await fixture.controller.sleep({ level: 2 })).toMatchObject({ level: 2, alreadySleeping: false });
    expect(fixture.allocator.usage()["weights"]).toMatchObject({ hostBytes: 0, discardedBytes: 4 * MiB });
    expect(fixture.controller.status.level).toBe(2);
    expect(await fixture.controller.sleep({ level: 2 })).toMatchObject({ alreadySleeping: true });
  });

  test("level 1 while asleep at 2 is an error that explains, and changes nothing", async () => {
    await fixture.controller.sleep({ level: 2 });
    const error = await failureOf(() => fixture.controller.sleep({ level: 1 }));
    expect(error.code).toBe("STATE_CONFLICT");
    expect(error.message).toContain("weights: asleep at level 2");
    expect(fixture.controller.status).toMatchObject({ state: "asleep", level: 2 });
    expect(await fixture.controller.sleep({ level: 1, tags: ["kv_cache"] })).toMatchObject({
      alreadySleeping: true,
    });
  });

  test("sleeping again after only the cache was woken works", async () => {
    await fixture.controller.sleep();
    await fixture.controller.wakeUp({ tags: ["kv_cache"] });
    expect(fixture.controller.status).toMatchObject({ state: "asleep", level: 1, sleepingTags: ["weights"] });
    expect(await fixture.controller.wakeUp({ tags: ["kv_cache"] })).toMatchObject({ alreadyAwake: true });
    expect(fixture.states).toEqual(["falling-asleep", "asleep", "waking", "asleep"]);
    expect(await fixture.controller.sleep()).toMatchObject({ alreadySleeping: false });
    await fixture.controller.wakeUp();
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("a wake-up of the weights alone admits nobody, and each step takes its share of memory", async () => {
    const { freeBytes } = fixture.allocator.memGetInfo();
    await fixture.controller.sleep();
    await fixture.controller.wakeUp({ tags: ["weights"] });
    expect(fixture.allocator.memGetInfo().freeBytes).toBe(freeBytes + 6 * MiB);
    expect(fixture.controller.status).toMatchObject({ state: "asleep", sleepingTags: ["kv_cache"] });
    expect(fixture.controller.isSleeping).toBe(true);
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
    await fixture.controller.wakeUp({ tags: ["kv_cache"] });
    expect(fixture.controller.isSleeping).toBe(false);
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("calls made at once take turns", async () => {
    const results = await Promise.all([
      fixture.controller.sleep(),
      fixture.controller.sleep(),
      fixture.controller.wakeUp(),
      fixture.controller.sleep({ level: 2 }),
      fixture.controller.wakeUp(),
      fixture.controller.wakeUp(),
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
    expect(fixture.controller.status.state).toBe("awaiting-weights");
  });

  test("a sleep of a tag leaves the rest awake, and admits nobody", async () => {
    await fixture.controller.sleep({ level: 1, tags: ["kv_cache"] });
    expect(fixture.controller.status).toMatchObject({ state: "asleep", sleepingTags: ["kv_cache"] });
    expect(fixture.engine.weights.state).toBe("mapped");
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
  });

  test("memory does not grow over cycles", async () => {
    const { freeBytes } = fixture.allocator.memGetInfo();
    for (let cycle = 0; cycle < 5; cycle++) {
      await fixture.controller.sleep({ level: cycle % 2 ? 2 : 1 });
      await fixture.controller.wakeUp({ tags: ["weights"] });
      if (cycle % 2) fixture.engine.load();
      await fixture.controller.confirmWeights();
      await fixture.controller.wakeUp();
      expect(await fixture.complete()).toBe(fixture.expected());
      expect(fixture.allocator.memGetInfo().freeBytes).toBe(freeBytes);
    }
    expect(fixture.controller.status.requests).toMatchObject({
      running: 0,
      parked: 0,
      waiting: 0,
      admittedTotal: 5,
    });
  });

  test("an engine without memory sleeps and wakes all the same", async () => {
    await fixture.restart({ tags: { weights: "empty/weights" } });
    const empty = fixture.controller;
    expect(await empty.sleep()).toMatchObject({ alreadySleeping: false });
    expect(empty.status.state).toBe("asleep");
    expect(await empty.sleep()).toMatchObject({ alreadySleeping: true });
    expect(await empty.wakeUp()).toMatchObject({ alreadyAwake: false });
    expect(empty.status.state).toBe("awake");
  });
});

describe("lost weights", () => {
  test("after level 2 requests are refused until the weights are confirmed", async () => {
    await fixture.controller.sleep({ level: 2 });
    expect(await codeOf(() => fixture.controller.confirmWeights())).toBe("STATE_CONFLICT");
    await fixture.controller.wakeUp();
    expect(fixture.controller.status).toMatchObject({ state: "awaiting-weights", awaitingTags: ["weights"] });
    expect(fixture.controller.isSleeping).toBe(false);
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
    fixture.engine.load();
    await fixture.controller.confirmWeights();
    expect(await fixture.complete()).toBe(fixture.expected());
    await fixture.controller.confirmWeights();
  });

  test("they can be loaded before the cache is woken", async () => {
    await fixture.controller.sleep({ level: 2 });
    await fixture.controller.wakeUp({ tags: ["weights"] });
    fixture.engine.load();
    await fixture.controller.confirmWeights();
    expect(fixture.controller.status).toMatchObject({ state: "asleep", awaitingTags: [] });
    await fixture.controller.wakeUp({ tags: ["kv_cache"] });
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("waking the cache first reads nothing into weights that are unmapped", async () => {
    await fixture.controller.sleep({ level: 2 });
    await fixture.controller.wakeUp({ tags: ["kv_cache"] });
    expect(fixture.engine.weights.state).toBe("discarded");
    expect(fixture.controller.status).toMatchObject({ state: "asleep", sleepingTags: ["weights"] });
    expect(await codeOf(() => fixture.controller.confirmWeights())).toBe("STATE_CONFLICT");
    await fixture.controller.wakeUp();
    expect(fixture.controller.status.state).toBe("awaiting-weights");
  });

  test("a lighter sleep and wake-up in between does not make garbage pass for weights", async () => {
    await fixture.controller.sleep({ level: 2 });
    await fixture.controller.wakeUp();
    await fixture.controller.sleep({ level: 1 });
    expect(await codeOf(() => fixture.controller.confirmWeights())).toBe("STATE_CONFLICT");
    await fixture.controller.wakeUp();
    expect(fixture.controller.status.state).toBe("awaiting-weights");
  });

  test("reload runs when the weights are awake, and before any request", async () => {
    const calls: string[] = [];
    await fixture.restart({
      whenAsleep: "wake",
      whenOperatorAsleep: "wake",
      reload: async ({ tags }) => {
        calls.push(`${tags} ${fixture.engine.weights.state} ${fixture.controller.status.state}`);
        await Bun.sleep(5);
        fixture.engine.load();
      },
    });
    await fixture.controller.sleep({ level: 2 });
    expect(await Promise.all([fixture.complete(), fixture.complete()])).toEqual([
      fixture.expected(),
      fixture.expected(),
    ]);
    expect(calls).toEqual(["weights mapped awaiting-weights"]);
    expect(fixture.states).toEqual(["falling-asleep", "asleep", "waking", "awaiting-weights", "awake"]);
  });

  test("a reload that throws leaves the engine asleep, and the next wake-up tries again", async () => {
    let attempts = 0;
    await fixture.restart({
      reload: () => {
        if (attempts++ === 0) throw new RangeError("no checkpoint");
        fixture.engine.load();
      },
    });
    const { freeBytes } = fixture.allocator.memGetInfo();
    await fixture.controller.sleep({ level: 2 });
    const error = await failureOf(() => fixture.controller.wakeUp());
    expect([error.code, error.cause]).toEqual(["HOOK_FAILED", new RangeError("no checkpoint")]);
    expect(fixture.controller.status).toMatchObject({ state: "asleep", level: 2 });
    expect(fixture.allocator.memGetInfo().freeBytes).toBe(freeBytes + 10 * MiB);
    await fixture.controller.wakeUp();
    expect(await fixture.complete()).toBe(fixture.expected());
  });
});

describe("pause", () => {
  test("differs from sleep: neither undoes the other", async () => {
    await fixture.controller.pause();
    expect(fixture.controller.status).toMatchObject({ state: "paused", level: null, paused: true });
    expect([fixture.controller.isPaused, fixture.controller.isSleeping]).toEqual([true, false]);
    await fixture.controller.sleep();
    await fixture.controller.resume();
    expect(fixture.controller.status).toMatchObject({ state: "asleep", paused: false });
    await fixture.controller.pause();
    await fixture.controller.wakeUp();
    expect(fixture.controller.status.state).toBe("paused");
    await fixture.controller.resume();
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("ends requests as its mode says, and one that they outlast changes nothing", async () => {
    const lease = await fixture.controller.admit();
    expect(await codeOf(() => fixture.controller.pause({ mode: "wait", deadlineMs: 5 }))).toBe("TIMED_OUT");
    expect(fixture.controller.status.state).toBe("awake");
    const paused = fixture.controller.pause();
    await until(() => lease.signal.aborted);
    lease.release();
    await paused;
    expect(fixture.controller.status.state).toBe("paused");
  });

  test("holds requests where that is configured", async () => {
    await fixture.restart({ whenAsleep: "wake" });
    await fixture.controller.pause();
    const held = fixture.complete();
    await until(() => fixture.controller.status.requests.waiting === 1);
    expect(fixture.controller.status.state).toBe("paused");
    await fixture.controller.resume();
    expect(await held).toBe(fixture.expected());
  });
});

describe("engines that share the allocator", () => {
  test("one sleeps and wakes without touching the other, and levels mean the same under its own names", async () => {
    await fixture.restart({ tags: { weights: "weights", kv_cache: "kv_cache" } });
    const other = new FakeEngine(fixture.allocator, { prefix: "qwen/", seed: 5 });
    await using qwen = new SleepController(fixture.allocator, { name: "qwen", tags: other.tags });
    expect(await qwen.sleep()).toMatchObject({
      report: { offloadedBytes: 4 * MiB, discardedBytes: 6 * MiB },
    });
    expect(Object.keys(qwen.usage())).toEqual(["weights", "kv_cache"]);
    expect(qwen.plan("wake").tags["weights"]?.restoreBytes).toBe(4 * MiB);
    expect(fixture.controller.status.state).toBe("awake");
    expect(await fixture.complete()).toBe(fixture.expected());
    await qwen.wakeUp({ tags: ["weights"] });
    await qwen.wakeUp({ tags: ["kv_cache"] });
    using lease = await qwen.admit();
    expect(await other.complete(lease, "once", 8)).toBe(other.expected("once", 8));
    expect(await codeOf(() => qwen.sleep({ tags: ["adapters"] }))).toBe("UNKNOWN_TAG");
  });
});

describe("closing", () => {
  test("while asleep: those held are refused, memory stays as it is", async () => {
    await fixture.restart({ whenAsleep: "hold" });
    await fixture.controller.sleep();
    const held = codeOf(() => fixture.controller.admit());
    await until(() => fixture.controller.status.requests.waiting === 1);
    await Promise.all([fixture.controller.close(), fixture.controller.close()]);
    expect(await held).toBe("CLOSED");
    expect(fixture.engine.weights.state).toBe("offloaded");
    for (const call of [
      () => fixture.controller.admit(),
      () => fixture.controller.sleep(),
      () => fixture.controller.wakeUp(),
      () => fixture.controller.resume(),
    ])
      expect(await codeOf(call)).toBe("CLOSED");
  });

  test("while moving: the transition is called off, requests in flight are told", async () => {
    const device = holdDevice();
    const slept = codeOf(() => fixture.controller.sleep());
    await until(() => fixture.engine.weights.state === "moving");
    const waiting = codeOf(() => fixture.controller.wakeUp());
    await fixture.controller.close();
    expect([await slept, await waiting]).toEqual(["CLOSED", "CLOSED"]);
    device.release();
    expect(fixture.engine.weights.read()).toEqual(fixture.engine.content);
  });

  test("while requests are in flight it waits for none", async () => {
    const lease = await fixture.controller.admit();
    const slept = codeOf(() => fixture.controller.sleep({ mode: "wait" }));
    await fixture.controller.close();
    expect(await slept).toBe("CLOSED");
    expect(lease.signal.reason).toMatchObject({ code: "CLOSED" });
    lease.release();
  });

  test("while a reload never ends", async () => {
    await fixture.restart({ reload: () => new Promise(() => undefined) });
    await fixture.controller.sleep({ level: 2 });
    const woken = codeOf(() => fixture.controller.wakeUp());
    await until(() => fixture.controller.status.state === "awaiting-weights");
    await fixture.controller.close();
    expect(await woken).toBe("CLOSED");
    expect(fixture.engine.weights.state).toBe("discarded");
  });
});
