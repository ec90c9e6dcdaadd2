/** The state of an engine after each failure, and the events that it emits. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { CamemError } from "camem";
import { SleepController } from "camem/server";
import { summaryOf } from "../../../src/server/engine/events.ts";
import { codeOf, failureOf, MiB, onEmulator, setFaults } from "../../support/device.ts";
import { until } from "../../support/fake-engine.ts";
import { FakeMemory } from "../pool/fake-memory.ts";
import { ControllerFixture } from "./controller-fixture.ts";

let fixture: ControllerFixture;

beforeEach(() => {
  fixture = new ControllerFixture();
});

afterEach(() => fixture.close());

/** Values that cannot be converted to text, or that throw when they are looked at. */
const unreadable: unknown[] = [
  Object.create(null),
  new Proxy(
    {},
    {
      getPrototypeOf: () => {
        throw new RangeError("trap");
      },
    },
  ),
  Object.defineProperty(new Error("hidden"), "message", {
    get: () => {
      throw new RangeError("getter");
    },
  }),
  Symbol("thrown"),
];

test("controller does not depend on what its listeners throw", async () => {
  for (const value of unreadable)
    for (const listener of [
      () => {
        throw value;
      },
      () => Promise.reject(value),
    ]) {
      const unsubscribe = fixture.controller.subscribe(listener);
      expect(await fixture.complete()).toBe(fixture.expected());
      await fixture.controller.sleep();
      await fixture.controller.wakeUp();
      unsubscribe();
    }
  expect(fixture.controller.status).toMatchObject({ state: "awake", requests: { running: 0 } });
});

test("wakeUp() reports a reload that throws an unreadable value", async () => {
  for (const value of unreadable) {
    await fixture.restart({
      reload: () => {
        throw value;
      },
    });
    await fixture.controller.sleep({ level: 2 });
    expect(await codeOf(() => fixture.controller.wakeUp())).toBe("HOOK_FAILED");
    await fixture.controller.close();
    await fixture.allocator.wakeUp();
  }
});

describe("failures", () => {
  test.if(onEmulator)("wakeUp() leaves the engine asleep when it fails, and succeeds on retry", async () => {
    await fixture.controller.sleep();
    setFaults("aclrtMapMem:1=507899");
    expect(await codeOf(() => fixture.controller.wakeUp())).toBe("ACL_CALL_FAILED");
    setFaults("");
    expect(fixture.controller.status).toMatchObject({ state: "asleep", level: 1 });
    expect(fixture.events.at(-1)).toMatchObject({
      type: "transition-ended",
      outcome: "failed",
      failure: { code: "ACL_CALL_FAILED" },
    });
    await fixture.controller.wakeUp();
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test.if(onEmulator)("sleep() leaves the engine awake and serving when it fails", async () => {
    setFaults("aclrtMemcpyAsync:1=507899");
    expect(await codeOf(() => fixture.controller.sleep())).toBe("ACL_CALL_FAILED");
    setFaults("");
    expect(fixture.controller.status.state).toBe("awake");
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("wakeUp() leaves the engine awake with its lost tags when afterWake throws", async () => {
    const remove = fixture.allocator.onTransition({
      afterWake: () => {
        throw new RangeError("graph");
      },
    });
    await fixture.controller.sleep({ level: 2 });
    expect(await failureOf(() => fixture.controller.wakeUp())).toMatchObject({
      code: "HOOK_FAILED",
      transitionComplete: true,
    });
    remove();
    expect(fixture.controller.status).toMatchObject({ state: "awaiting-weights", sleepingTags: [] });
  });

  test.if(onEmulator)("controller stays failed after a lost device until a transition succeeds", async () => {
    await fixture.controller.sleep();
    setFaults("*:1+=507010");
    expect(await codeOf(() => fixture.controller.wakeUp())).toBe("DEVICE_LOST");
    expect(fixture.controller.status).toMatchObject({
      state: "failed",
      level: 1,
      failure: { code: "DEVICE_LOST" },
    });
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
    expect(await fixture.controller.sleep()).toMatchObject({ alreadySleeping: true });
    expect(fixture.controller.status.state).toBe("failed");
    setFaults("");
    await fixture.controller.wakeUp();
    expect(fixture.controller.status).toMatchObject({ state: "awake", failure: null });
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("controller fails and refuses requests when its allocator is closed", async () => {
    await fixture.allocator.close();
    expect(await codeOf(() => fixture.controller.sleep())).toBe("CLOSED");
    expect(fixture.controller.status).toMatchObject({ state: "failed", failure: { code: "CLOSED" } });
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
  });

  test("controller refuses transitions requested by a hook or a reload", async () => {
    const codes: string[] = [];
    const attempt = async (run: () => Promise<unknown>) => codes.push(await codeOf(run));
    await fixture.restart({
      reload: async () => {
        await attempt(() => fixture.controller.wakeUp());
        await attempt(() => fixture.controller.confirmWeights());
        fixture.engine.load();
      },
    });
    const remove = fixture.allocator.onTransition({
      beforeSleep: async () => {
        await attempt(() => fixture.controller.pause());
        await attempt(() => fixture.controller.close());
      },
    });
    await fixture.controller.sleep({ level: 2 });
    await fixture.controller.wakeUp();
    remove();
    expect(codes).toEqual(Array(4).fill("CALLED_FROM_HOOK"));
  });

  test("controller refuses invalid input and changes nothing", async () => {
    const bad: [() => unknown, string][] = [
      [() => fixture.controller.sleep({ level: 3 as 2 }), "UNKNOWN_LEVEL"],
      [() => fixture.controller.sleep({ mode: "kill" as "abort" }), "INVALID_ARGUMENT"],
      [() => fixture.controller.sleep({ tags: ["kv_cash"] }), "UNKNOWN_TAG"],
      [() => fixture.controller.sleep({ tags: "kv_cache" as never }), "INVALID_TAG"],
      [() => fixture.controller.sleep({ deadlineMs: -1 }), "INVALID_ARGUMENT"],
      [() => fixture.controller.wakeUp({ tags: ["kv_cash"] }), "UNKNOWN_TAG"],
      [() => fixture.controller.wakeUp({ level: 1 } as never), "INVALID_ARGUMENT"],
      [() => fixture.controller.wakeUp({ reason: "request" as "pool" }), "INVALID_ARGUMENT"],
      [() => fixture.controller.pause({ mode: "later" as "wait" }), "INVALID_ARGUMENT"],
      [() => fixture.controller.admit({} as AbortSignal), "INVALID_ARGUMENT"],
      [() => fixture.controller.admit(undefined, { deadlineMs: Number.NaN }), "INVALID_ARGUMENT"],
      [() => new SleepController(fixture.allocator, { whenAsleep: "later" as "hold" }), "INVALID_CONFIG"],
      [() => new SleepController(fixture.allocator, { reload: 1 as never }), "INVALID_CONFIG"],
      [() => new SleepController(fixture.allocator, { tags: { a: "x", b: "x" } }), "INVALID_CONFIG"],
      [() => new SleepController(fixture.allocator, { tags: { a: "" } }), "INVALID_TAG"],
      [() => new SleepController(fixture.allocator, { nap: 1 } as never), "INVALID_CONFIG"],
      [() => new SleepController(undefined as never), "INVALID_CONFIG"],
      [
        () => new SleepController(fixture.allocator, { tags: { weights: "x" }, weightTags: ["wights"] }),
        "INVALID_CONFIG",
      ],
      [() => fixture.controller.plan("sleep", { tags: "weights" as never }), "INVALID_TAG"],
      [() => fixture.controller.subscribe("console.log" as never), "INVALID_ARGUMENT"],
    ];
    for (const [call, code] of bad) expect([String(call), await codeOf(call)]).toEqual([String(call), code]);
    expect(fixture.events).toEqual([]);
    expect(fixture.controller.status.state).toBe("awake");
  });

  test("SleepController refuses memory that is already asleep", async () => {
    await fixture.controller.sleep();
    await fixture.controller.close();
    expect(() => new SleepController(fixture.allocator)).toThrow("memory of weights, kv_cache is asleep");
  });
});

describe("events", () => {
  test("summaryOf() describes a failure without a message", () => {
    expect(summaryOf(Object.create(null))).toEqual({ code: "UNKNOWN", message: "an object" });
    expect(summaryOf(undefined)).toEqual({ code: "UNKNOWN", message: "undefined" });
  });

  test("subscribe() receives the start, progress and end of a transition in order", async () => {
    await fixture.controller.sleep();
    const types = fixture.events.map((event) => event.type).filter((type) => type !== "state");
    expect(types[0]).toBe("transition-started");
    expect(types.at(-1)).toBe("transition-ended");
    expect(types.slice(1, -1).every((type) => type === "transition-progress")).toBe(true);
    expect(types.length).toBeGreaterThan(2);
    expect(fixture.events.at(-1)).toMatchObject({
      engine: "default",
      id: 1,
      operation: "sleep",
      level: 1,
      reason: "operator",
      outcome: "done",
      report: { offloadedBytes: 4 * MiB },
    });
  });

  test("subscribe() tolerates listeners that throw and listeners that start transitions", async () => {
    const warnings: string[] = [];
    const note = (warning: Error) => warnings.push(warning.message);
    process.on("warning", note);
    const woken = Promise.withResolvers<unknown>();
    const unsubscribe = fixture.controller.subscribe((event) => {
      if (event.type === "state" && event.status.state === "falling-asleep")
        woken.resolve(fixture.controller.wakeUp());
      throw new RangeError("display");
    });
    const unsubscribeLater = fixture.controller.subscribe(async () => {
      await null;
      throw new RangeError("asynchronous");
    });
    await fixture.controller.sleep();
    await woken.promise;
    unsubscribe();
    unsubscribeLater();
    expect(fixture.controller.status.state).toBe("awake");
    await until(() => warnings.some((warning) => warning.includes("asynchronous")));
    process.off("warning", note);
    expect(warnings[0]).toContain("display");
    await fixture.controller.sleep();
    expect(fixture.controller.status.state).toBe("asleep");
  });
});

test("controller is asleep again after its engine was gone during a wake-up and its memory is known again", async () => {
  const memory = new FakeMemory([4], 4);
  memory.memories.set("weights", { device: 0, units: 2, state: "mapped", left: 0 });
  await using controller = new SleepController(memory);
  await controller.sleep({ level: 2 });
  const gone = () => {
    throw new CamemError("ENGINE_GONE", "the engine is gone");
  };
  const [usage, wakeUp] = [memory.usage.bind(memory), memory.wakeUp.bind(memory)];
  memory.wakeUp = async () => {
    memory.usage = gone;
    return gone();
  };
  expect(await codeOf(() => controller.wakeUp())).toBe("ENGINE_GONE");
  expect(controller.status.state).toBe("failed");
  Object.assign(memory, { usage, wakeUp });
  expect(await controller.sleep({ level: 2 })).toMatchObject({ alreadySleeping: true });
  expect(controller.status).toMatchObject({ state: "asleep", failure: null });
});
