/** One engine: sleep, wake-up, pause, lost weights, and closing. */

import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { SleepController } from "camem/server";
import { codeOf, failureOf, granulesBetween, holdDevice, MiB } from "../../support/device.ts";
import { FakeEngine, until } from "../../support/fake-engine.ts";
import { ControllerFixture } from "./controller-fixture.ts";

let fixture: ControllerFixture;

beforeEach(() => {
  fixture = new ControllerFixture();
});

afterEach(() => fixture.close());

describe("sleep() and wakeUp()", () => {
  test("controller passes through every state of a cycle, and the output stays the same", async () => {
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
    expect(granulesBetween(fixture.allocator.memGetInfo().freeBytes, freeBytes + 10 * MiB)).toBe(0);
    expect(await fixture.controller.wakeUp()).toMatchObject({ alreadyAwake: false, tags: null });
    expect(fixture.controller.status).toMatchObject({
      state: "awake",
      level: null,
      reason: null,
      sleepingTags: [],
    });
    expect(granulesBetween(fixture.allocator.memGetInfo().freeBytes, freeBytes)).toBe(0);
    expect(await fixture.complete()).toBe(fixture.expected());
    expect(fixture.states).toEqual(["falling-asleep", "asleep", "waking", "awake"]);
  });

  test("sleep({ level: 0 }) frees nothing and ends by wakeUp() or resume()", async () => {
    const { freeBytes } = fixture.allocator.memGetInfo();
    for (const end of [
      () => fixture.controller.wakeUp({ tags: ["scheduling"] }),
      () => fixture.controller.resume(),
    ]) {
      await fixture.controller.sleep({ level: 0 });
      expect(fixture.controller.status).toMatchObject({ state: "paused", level: 0, paused: false });
      expect([fixture.controller.isSleeping, fixture.controller.isPaused]).toEqual([true, true]);
      expect(granulesBetween(fixture.allocator.memGetInfo().freeBytes, freeBytes)).toBe(0);
      expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
      expect(await fixture.controller.sleep({ level: 0 })).toMatchObject({ alreadySleeping: true });
      await end();
      expect(await fixture.complete()).toBe(fixture.expected());
    }
  });

  test("sleep() and wakeUp() report a no-op in the result and in the events", async () => {
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

  test("sleep({ level: 2 }) drops the backups of level 1", async () => {
    await fixture.controller.sleep();
    expect(fixture.allocator.usage()["weights"]?.hostBytes).toBe(4 * MiB);
    expect(await fixture.controller.sleep({ level: 2 })).toMatchObject({ level: 2, alreadySleeping: false });
    expect(fixture.allocator.usage()["weights"]).toMatchObject({ hostBytes: 0, discardedBytes: 4 * MiB });
    expect(fixture.controller.status.level).toBe(2);
    expect(await fixture.controller.sleep({ level: 2 })).toMatchObject({ alreadySleeping: true });
  });

  test("sleep({ level: 1 }) throws STATE_CONFLICT when asleep at level 2", async () => {
    await fixture.controller.sleep({ level: 2 });
    const error = await failureOf(() => fixture.controller.sleep({ level: 1 }));
    expect(error.code).toBe("STATE_CONFLICT");
    expect(error.message).toContain("weights: asleep at level 2");
    expect(fixture.controller.status).toMatchObject({ state: "asleep", level: 2 });
    expect(await fixture.controller.sleep({ level: 1, tags: ["kv_cache"] })).toMatchObject({
      alreadySleeping: true,
    });
  });

  test("sleep() succeeds after a wake-up of the cache only", async () => {
    await fixture.controller.sleep();
    await fixture.controller.wakeUp({ tags: ["kv_cache"] });
    expect(fixture.controller.status).toMatchObject({ state: "asleep", level: 1, sleepingTags: ["weights"] });
    expect(await fixture.controller.wakeUp({ tags: ["kv_cache"] })).toMatchObject({ alreadyAwake: true });
    expect(fixture.states).toEqual(["falling-asleep", "asleep", "waking", "asleep"]);
    expect(await fixture.controller.sleep()).toMatchObject({ alreadySleeping: false });
    await fixture.controller.wakeUp();
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("wakeUp({ tags }) admits no request until all tags are awake", async () => {
    const { freeBytes } = fixture.allocator.memGetInfo();
    await fixture.controller.sleep();
    await fixture.controller.wakeUp({ tags: ["weights"] });
    expect(granulesBetween(fixture.allocator.memGetInfo().freeBytes, freeBytes + 6 * MiB)).toBe(0);
    expect(fixture.controller.status).toMatchObject({ state: "asleep", sleepingTags: ["kv_cache"] });
    expect(fixture.controller.isSleeping).toBe(true);
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
    await fixture.controller.wakeUp({ tags: ["kv_cache"] });
    expect(fixture.controller.isSleeping).toBe(false);
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("sleep() and wakeUp() run one after the other when called at once", async () => {
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

  test("sleep({ tags }) leaves other tags awake and admits no request", async () => {
    await fixture.controller.sleep({ level: 1, tags: ["kv_cache"] });
    expect(fixture.controller.status).toMatchObject({ state: "asleep", sleepingTags: ["kv_cache"] });
    expect(fixture.engine.weights.state).toBe("mapped");
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
  });

  test("sleep() and wakeUp() leave free memory unchanged over cycles", async () => {
    const { freeBytes } = fixture.allocator.memGetInfo();
    for (let cycle = 0; cycle < 5; cycle++) {
      await fixture.controller.sleep({ level: cycle % 2 ? 2 : 1 });
      await fixture.controller.wakeUp({ tags: ["weights"] });
      if (cycle % 2) fixture.engine.load();
      await fixture.controller.confirmWeights();
      await fixture.controller.wakeUp();
      expect(await fixture.complete()).toBe(fixture.expected());
      expect(granulesBetween(fixture.allocator.memGetInfo().freeBytes, freeBytes)).toBe(0);
    }
    expect(fixture.controller.status.requests).toMatchObject({
      running: 0,
      parked: 0,
      waiting: 0,
      admittedTotal: 5,
    });
  });

  test("sleep() and wakeUp() change the state of an engine without memory", async () => {
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
  test("admit() throws after level 2 until confirmWeights()", async () => {
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

  test("confirmWeights() succeeds before the cache is awake", async () => {
    await fixture.controller.sleep({ level: 2 });
    await fixture.controller.wakeUp({ tags: ["weights"] });
    fixture.engine.load();
    await fixture.controller.confirmWeights();
    expect(fixture.controller.status).toMatchObject({ state: "asleep", awaitingTags: [] });
    await fixture.controller.wakeUp({ tags: ["kv_cache"] });
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("wakeUp() of the cache leaves discarded weights asleep", async () => {
    await fixture.controller.sleep({ level: 2 });
    await fixture.controller.wakeUp({ tags: ["kv_cache"] });
    expect(fixture.engine.weights.state).toBe("discarded");
    expect(fixture.controller.status).toMatchObject({ state: "asleep", sleepingTags: ["weights"] });
    expect(await codeOf(() => fixture.controller.confirmWeights())).toBe("STATE_CONFLICT");
    await fixture.controller.wakeUp();
    expect(fixture.controller.status.state).toBe("awaiting-weights");
  });

  test("wakeUp() still awaits weights after a lighter sleep in between", async () => {
    await fixture.controller.sleep({ level: 2 });
    await fixture.controller.wakeUp();
    await fixture.controller.sleep({ level: 1 });
    expect(await codeOf(() => fixture.controller.confirmWeights())).toBe("STATE_CONFLICT");
    await fixture.controller.wakeUp();
    expect(fixture.controller.status.state).toBe("awaiting-weights");
  });

  test("reload runs once the weights are mapped, before any request", async () => {
    const calls: string[] = [];
    await fixture.restart({
      whenAsleep: "wake",
      whenOperatorAsleep: "wake",
      reload: async ({ tags }) => {
        calls.push(`${tags} ${fixture.engine.weights.state} ${fixture.controller.status.state}`);
        await sleep(5);
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

  test("wakeUp() leaves the engine asleep when reload throws, and the next one retries", async () => {
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
    expect(granulesBetween(fixture.allocator.memGetInfo().freeBytes, freeBytes + 10 * MiB)).toBe(0);
    await fixture.controller.wakeUp();
    expect(await fixture.complete()).toBe(fixture.expected());
  });
});

describe("pause", () => {
  test("pause() and sleep() do not undo each other", async () => {
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

  test("pause() ends requests by its mode, and changes nothing when they exceed its deadline", async () => {
    const lease = await fixture.controller.admit();
    expect(await codeOf(() => fixture.controller.pause({ mode: "wait", deadlineMs: 5 }))).toBe("TIMED_OUT");
    expect(fixture.controller.status.state).toBe("awake");
    const paused = fixture.controller.pause();
    await until(() => lease.signal.aborted);
    lease.release();
    await paused;
    expect(fixture.controller.status.state).toBe("paused");
  });

  test("pause() holds requests when the controller is configured to", async () => {
    await fixture.restart({ whenAsleep: "wake" });
    await fixture.controller.pause();
    const held = fixture.complete();
    await until(() => fixture.controller.status.requests.waiting === 1);
    expect(fixture.controller.status.state).toBe("paused");
    await fixture.controller.resume();
    expect(await held).toBe(fixture.expected());
  });
});

describe("whenPaused", () => {
  test.each(["refuse", "hold"] as const)(
    "pause() refuses or holds requests as configured: %s",
    async (whenPaused) => {
      for (const whenAsleep of ["refuse", "hold", "wake"] as const) {
        await fixture.restart({ whenAsleep, whenPaused, holdDeadlineMs: 2000 });
        await fixture.controller.pause();
        const answered = fixture.complete().catch((error) => error.code);
        await sleep(5);
        expect(fixture.controller.status.requests.waiting).toBe(whenPaused === "hold" ? 1 : 0);
        await fixture.controller.resume();
        expect(await answered).toBe(whenPaused === "hold" ? fixture.expected() : "ENGINE_UNAVAILABLE");
      }
    },
  );

  test("pause() refuses requests that already wait when configured to refuse", async () => {
    await fixture.restart({ whenAsleep: "hold", whenPaused: "refuse" });
    await fixture.controller.sleep();
    const held = codeOf(() => fixture.controller.admit());
    await until(() => fixture.controller.status.requests.waiting === 1);
    await fixture.controller.pause();
    expect(await held).toBe("ENGINE_UNAVAILABLE");
  });
});

describe("engines that share an allocator", () => {
  test("sleep() and wakeUp() leave another engine of the same allocator alone", async () => {
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

  test("sleep() warns once when no tag of the engine has memory", async () => {
    using warn = spyOn(process, "emitWarning").mockImplementation(() => undefined);
    await fixture.restart({ tags: { weights: "qwen/weigths" } });
    for (let cycle = 0; cycle < 2; cycle++) {
      await fixture.controller.sleep();
      await fixture.controller.wakeUp();
    }
    expect(warn.mock.calls.map(([warning]) => warning)).toEqual([
      "the sleep of the engine default frees nothing: its tags qwen/weigths have no memory; tags with memory: weights, kv_cache",
    ]);
  });

  test("SleepController refuses tags that an open controller of the allocator has", async () => {
    const start = (tags?: Record<string, string>) =>
      new SleepController(fixture.allocator, { name: "second", tags });
    for (const tags of [undefined, { weights: "second/weights" }])
      expect(() => start(tags)).toThrow("the open controller of the engine default already has");
    const shared = { weights: "weights", other: "sleep_persistent" };
    await fixture.restart({ tags: shared });
    expect(() => start()).toThrow("already has weights of this allocator");
    expect(() => start({ kv_cache: "kv_cache", model: "weights" })).toThrow("already has weights");
    expect(await codeOf(() => start(shared))).toBe("STATE_CONFLICT");
    await using cache = start({ kv_cache: "kv_cache", other: "sleep_persistent" });
    expect(cache.status.state).toBe("awake");
  });

  test("close() lets another controller have the tags, and so does a constructor that throws", async () => {
    await fixture.controller.sleep();
    await fixture.controller.close();
    for (const _attempt of [1, 2]) expect(() => new SleepController(fixture.allocator)).toThrow("is asleep");
    await fixture.allocator.wakeUp();
    await fixture.restart({ name: "second" });
    expect(await fixture.complete()).toBe(fixture.expected());
  });
});

describe("close()", () => {
  test("close() rejects held requests and leaves memory asleep", async () => {
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

  test("close() cancels running and waiting transitions", async () => {
    const device = holdDevice();
    const slept = codeOf(() => fixture.controller.sleep());
    await until(() => fixture.engine.weights.state === "moving");
    const waiting = codeOf(() => fixture.controller.wakeUp());
    await fixture.controller.close();
    expect([await slept, await waiting]).toEqual(["CLOSED", "CLOSED"]);
    device.release();
    expect(fixture.engine.weights.read()).toEqual(fixture.engine.content);
  });

  test("close() aborts requests in flight without waiting for them", async () => {
    const lease = await fixture.controller.admit();
    const slept = codeOf(() => fixture.controller.sleep({ mode: "wait" }));
    await fixture.controller.close();
    expect(await slept).toBe("CLOSED");
    expect(lease.signal.reason).toMatchObject({ code: "CLOSED" });
    lease.release();
  });

  test("close() does not wait for a reload that never ends", async () => {
    await fixture.restart({ reload: () => new Promise(() => undefined) });
    await fixture.controller.sleep({ level: 2 });
    const woken = codeOf(() => fixture.controller.wakeUp());
    await until(() => fixture.controller.status.state === "awaiting-weights");
    await fixture.controller.close();
    expect(await woken).toBe("CLOSED");
    expect(fixture.engine.weights.state).toBe("discarded");
  });
});
