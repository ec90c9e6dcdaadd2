/** Requests to an engine that sleeps, and requests in flight when a sleep begins. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Lease } from "camem/server";
import { codeOf, failureOf, MiB, onEmulator, setFaults } from "../../support/device.ts";
import { until } from "../../support/fake-engine.ts";
import { ControllerFixture } from "./controller-fixture.ts";

let fixture: ControllerFixture;

beforeEach(() => {
  fixture = new ControllerFixture();
});

afterEach(() => fixture.close());

describe("admit()", () => {
  test("admit() throws with a retry time when the engine sleeps", async () => {
    await fixture.controller.sleep();
    const error = await failureOf(() => fixture.controller.admit());
    expect(error).toMatchObject({ code: "ENGINE_UNAVAILABLE", retryAfterSeconds: 5 });
    expect(error.message).toContain("asleep at level 1");
    expect(fixture.controller.status.requests.refusedTotal).toBe(1);
  });

  test("admit() resolves a held request once all memory is awake", async () => {
    await fixture.restart({ whenAsleep: "hold" });
    await fixture.controller.sleep();
    const held = fixture.complete();
    await until(() => fixture.controller.status.requests.waiting === 1);
    await fixture.controller.wakeUp({ tags: ["weights"] });
    expect(fixture.controller.status.requests.waiting).toBe(1);
    await fixture.controller.wakeUp();
    expect(await held).toBe(fixture.expected());
  });

  test("admit() throws when a held request exceeds its deadline", async () => {
    await fixture.restart({ whenAsleep: "hold" });
    await fixture.controller.sleep();
    const error = await failureOf(() => fixture.controller.admit(undefined, { deadlineMs: 5 }));
    expect(error).toMatchObject({ code: "ENGINE_UNAVAILABLE", retryAfterSeconds: 5 });
    expect(fixture.controller.status).toMatchObject({
      state: "asleep",
      requests: { waiting: 0, refusedTotal: 1 },
    });
  });

  test("admit() frees the place of a held request when its client disconnects", async () => {
    await fixture.restart({ whenAsleep: "hold" });
    await fixture.controller.sleep();
    const client = new AbortController();
    const held = codeOf(() => fixture.controller.admit(client.signal));
    await until(() => fixture.controller.status.requests.waiting === 1);
    client.abort();
    expect(await held).toBe("ABORTED");
    expect(fixture.controller.status.requests).toMatchObject({ waiting: 0, refusedTotal: 0 });
    await fixture.controller.wakeUp();
    expect(fixture.controller.status.requests.running).toBe(0);
  });

  test("admit() throws QUEUE_FULL when the queue is full", async () => {
    await fixture.restart({ whenAsleep: "hold", queueLimit: 1 });
    await fixture.controller.sleep();
    const held = fixture.complete();
    await until(() => fixture.controller.status.requests.waiting === 1);
    expect(await failureOf(() => fixture.controller.admit())).toMatchObject({
      code: "QUEUE_FULL",
      retryAfterSeconds: 5,
    });
    await fixture.controller.wakeUp();
    await held;
  });

  test("admit() wakes an idle engine but not one that an operator put to sleep", async () => {
    await fixture.restart({ whenAsleep: "wake" });
    await fixture.controller.sleep({ reason: "idle" });
    expect(await fixture.complete()).toBe(fixture.expected());
    await fixture.controller.sleep();
    expect(await codeOf(() => fixture.controller.admit(undefined, { deadlineMs: 5 }))).toBe(
      "ENGINE_UNAVAILABLE",
    );
    expect(fixture.controller.status.state).toBe("asleep");
  });

  test("admit() does not wake an engine without weights when there is no reload", async () => {
    await fixture.restart({ whenAsleep: "wake" });
    await fixture.controller.sleep({ level: 2, reason: "idle" });
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
    expect(fixture.states).toEqual(["falling-asleep", "asleep"]);
  });

  test("admit() leaves no lease when the client disconnects during wake-up", async () => {
    await fixture.restart({ whenAsleep: "hold" });
    await fixture.controller.sleep();
    const client = new AbortController();
    const held = codeOf(() => fixture.controller.admit(client.signal));
    fixture.controller.subscribe((event) => {
      if (event.type === "state" && event.status.state === "awake") client.abort();
    });
    await fixture.controller.wakeUp();
    expect(await held).toBe("ABORTED");
    expect(fixture.controller.status.requests).toMatchObject({ running: 0, waiting: 0, admittedTotal: 0 });
  });

  test("admit() wakes the engine while the wake-up for a disconnected client is cancelled", async () => {
    for (let turns = 0; turns < 12; turns++) {
      await fixture.restart({ whenAsleep: "wake", holdDeadlineMs: 1000 });
      const client = new AbortController();
      const following = Promise.withResolvers<Lease>();
      fixture.controller.subscribe((event) => {
        if (event.type !== "state" || event.status.state !== "asleep") return;
        queueMicrotask(async () => {
          client.abort();
          for (let turn = 0; turn < turns; turn++) await null;
          following.resolve(fixture.controller.admit());
        });
      });
      const sleep = fixture.controller.sleep({ reason: "idle" });
      while (fixture.controller.status.state !== "falling-asleep") await null;
      const gone = codeOf(() => fixture.controller.admit(client.signal));
      await sleep;
      expect(await gone).toBe("ABORTED");
      (await following.promise).release();
    }
  });

  test("sleep() keeps the reason operator when idleness deepens it", async () => {
    await fixture.controller.sleep({ reason: "idle" });
    expect(fixture.controller.status.reason).toBe("idle");
    await fixture.controller.sleep();
    expect(fixture.controller.status.reason).toBe("operator");
    await fixture.controller.sleep({ level: 2, reason: "idle" });
    expect(fixture.controller.status).toMatchObject({ reason: "operator", level: 2 });
  });

  test("admit() does not undo a sleep that an operator requested meanwhile", async () => {
    await fixture.restart({ whenAsleep: "wake" });
    await fixture.controller.sleep({ reason: "idle" });
    const operators = fixture.controller.sleep({ level: 2 });
    const held = codeOf(() => fixture.controller.admit(undefined, { deadlineMs: 20 }));
    await operators;
    expect(await held).toBe("ENGINE_UNAVAILABLE");
    expect(fixture.controller.status).toMatchObject({ state: "asleep", level: 2 });
  });

  test.if(onEmulator)(
    "admit() rejects held requests when the wake-up fails, and the next request retries",
    async () => {
      await fixture.restart({ whenAsleep: "wake" });
      await fixture.controller.sleep({ reason: "idle" });
      setFaults("aclrtMallocPhysical:1=207001");
      const errors = await Promise.all([0, 1].map(() => failureOf(() => fixture.controller.admit())));
      setFaults("");
      expect(errors.map((error) => error.code)).toEqual(["ENGINE_UNAVAILABLE", "ENGINE_UNAVAILABLE"]);
      expect(errors[0]?.cause).toMatchObject({ code: "OUT_OF_DEVICE_MEMORY" });
      expect(fixture.controller.status).toMatchObject({ state: "asleep", requests: { waiting: 0 } });
      expect(await fixture.complete()).toBe(fixture.expected());
    },
  );
});

describe("requests in flight", () => {
  test('sleep({ mode: "abort" }) aborts requests and waits for their end', async () => {
    const lease = await fixture.controller.admit();
    const slept = fixture.controller.sleep({ mode: "abort" });
    await until(() => lease.signal.aborted);
    expect(lease.signal.reason).toMatchObject({ code: "ABORTED" });
    await sleep(5);
    expect(fixture.controller.status).toMatchObject({ state: "falling-asleep", requests: { running: 1 } });
    expect(fixture.engine.weights.state).toBe("mapped");
    lease.release();
    lease.release();
    await slept;
    expect(fixture.controller.status.requests).toMatchObject({ running: 0, abortedTotal: 1 });
  });

  test('sleep({ mode: "wait" }) lets requests finish and admits no others', async () => {
    const lease = await fixture.controller.admit();
    const slept = fixture.controller.sleep({ mode: "wait" });
    await until(() => fixture.controller.status.state === "falling-asleep");
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
    expect(await fixture.engine.complete(lease, "once", 8)).toBe(fixture.expected());
    expect(lease.signal.aborted).toBe(false);
    expect(fixture.controller.status.state).toBe("falling-asleep");
    lease.release();
    expect(await slept).toMatchObject({ alreadySleeping: false });
  });

  test('sleep({ mode: "keep" }) parks requests, which continue with the same output', async () => {
    const lease = await fixture.controller.admit();
    const letters: string[] = [];
    const done = (async () => {
      for await (const letter of fixture.engine.generate(lease, "once", 300)) letters.push(letter);
      lease.release();
    })();
    await until(() => letters.length > 3);
    await fixture.controller.sleep({ mode: "keep" });
    const written = letters.length;
    expect(fixture.controller.status.requests).toMatchObject({ running: 0, parked: 1 });
    await fixture.controller.wakeUp({ tags: ["kv_cache"] });
    await sleep(5);
    expect(letters.length).toBe(written);
    expect(written).toBeLessThan(300);
    await fixture.controller.wakeUp();
    await done;
    expect(letters.join("")).toBe(fixture.engine.expected("once", 300));
    expect(fixture.controller.status.requests).toMatchObject({ running: 0, parked: 0, abortedTotal: 0 });
  });

  test("checkpoint() resolves at once while awake, and after a pause without lost tags", async () => {
    using lease = await fixture.controller.admit();
    expect(await lease.checkpoint()).toEqual({ parked: false, lostTags: [] });
    const paused = fixture.controller.pause({ mode: "keep" });
    await until(() => fixture.controller.status.state === "paused");
    const checkpoint = lease.checkpoint();
    await paused;
    await fixture.controller.resume();
    expect(await checkpoint).toEqual({ parked: true, lostTags: [] });
  });

  test("checkpoint() returns the lost tags of several wake-ups, without reloaded weights", async () => {
    using lease = await fixture.controller.admit();
    const slept = fixture.controller.sleep({ mode: "keep", level: 2 });
    await until(() => fixture.controller.status.state === "falling-asleep");
    const checkpoint = lease.checkpoint();
    await slept;
    await fixture.controller.wakeUp({ tags: ["weights"] });
    fixture.engine.load();
    await fixture.controller.confirmWeights();
    await fixture.controller.wakeUp();
    expect(await checkpoint).toEqual({ parked: true, lostTags: ["kv_cache"] });
  });

  test("checkpoint() rejects when the client disconnects or a deeper sleep aborts the request", async () => {
    const client = new AbortController();
    const first = await fixture.controller.admit(client.signal);
    const second = await fixture.controller.admit();
    const slept = fixture.controller.sleep({ mode: "keep" });
    await until(() => fixture.controller.status.state === "falling-asleep");
    const checkpoints = [first, second].map((lease) => codeOf(() => lease.checkpoint()));
    await slept;
    client.abort();
    expect(await checkpoints[0]).toBe("ABORTED");
    first.release();
    await fixture.controller.sleep({ level: 2, mode: "abort" });
    expect(await checkpoints[1]).toBe("ABORTED");
    second.release();
    expect(await codeOf(() => second.checkpoint())).toBe("STATE_CONFLICT");
    expect(fixture.controller.status.requests).toMatchObject({ running: 0, parked: 0 });
  });

  test.each(["wait", "keep", "abort"] as const)(
    'sleep({ mode: "%s" }) changes nothing when requests exceed its deadline',
    async (mode) => {
      const lease = await fixture.controller.admit();
      const error = await failureOf(() => fixture.controller.sleep({ mode, deadlineMs: 5 }));
      expect(error.code).toBe("TIMED_OUT");
      expect(error.message).toContain("1 requests in flight");
      expect(fixture.controller.status).toMatchObject({ state: "awake", requests: { running: 1 } });
      expect(fixture.engine.weights.state).toBe("mapped");
      expect(await fixture.complete()).toBe(fixture.expected());
      lease.release();
      await fixture.controller.sleep({ mode, deadlineMs: 5 });
    },
  );

  test("sleep() rejects when its signal aborts while it waits for requests", async () => {
    using _lease = await fixture.controller.admit();
    const caller = new AbortController();
    const slept = codeOf(() => fixture.controller.sleep({ mode: "wait", signal: caller.signal }));
    await until(() => fixture.controller.status.state === "falling-asleep");
    caller.abort();
    expect(await slept).toBe("ABORTED");
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("sleep() aborts no request when the host budget is too small", async () => {
    await fixture.close();
    fixture = new ControllerFixture({ hostBudget: 2 * MiB });
    using lease = await fixture.controller.admit();
    expect(await codeOf(() => fixture.controller.sleep())).toBe("HOST_BUDGET_EXCEEDED");
    expect(lease.signal.aborted).toBe(false);
    expect(fixture.states).toEqual([]);
  });
});
