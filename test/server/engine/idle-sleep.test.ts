/** An idle engine falls asleep by itself. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator } from "camem";
import { type ControllerOptions, type IdleOptions, IdleSleep, SleepController } from "camem/server";
import { codeOf, failureOf, holdDevice, MiB, onEmulator, setFaults } from "../../support/device.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { FakeEngine, until } from "../../support/fake-engine.ts";

const minute = 60_000;

let allocator: CaMemAllocator;
let engine: FakeEngine;
let controller: SleepController;
let idle: IdleSleep;
let clock: FakeClock;

async function start(options: Partial<IdleOptions> = {}, controllerOptions: ControllerOptions = {}) {
  idle?.close();
  await controller?.close();
  clock = new FakeClock();
  controller = new SleepController(allocator, { whenAsleep: "wake", ...controllerOptions });
  const ladder = [
    { after: "5m", level: 1 },
    { after: "1h", level: 2 },
  ] as const;
  idle = new IdleSleep(controller, { ladder, clock, ...options });
}

beforeEach(async () => {
  allocator = CaMemAllocator.getInstance();
  engine = new FakeEngine(allocator);
  await start();
});

afterEach(async () => {
  idle.close();
  await controller.close();
  await allocator.close();
});

const asleepAt = (level: number) =>
  until(() => controller.status.state === "asleep" && controller.status.level === level);

/** Gives pending work time to run, before an assertion that nothing changed. */
const settle = () => sleep(5);

test("IdleSleep goes down its ladder level by level", async () => {
  clock.advance(5 * minute - 1);
  await settle();
  expect(controller.status.state).toBe("awake");
  clock.advance(1);
  await asleepAt(1);
  expect(controller.status.reason).toBe("idle");
  clock.advance(55 * minute - 1);
  await settle();
  expect(controller.status.level).toBe(1);
  clock.advance(1);
  await asleepAt(2);
  expect(clock.timers).toBe(0);
});

test("IdleSleep counts idle time from the end of the last request", async () => {
  clock.advance(5 * minute);
  await asleepAt(1);
  const lease = await controller.admit();
  expect(await engine.complete(lease, "once", 8)).toBe(engine.expected("once", 8));
  clock.advance(60 * minute);
  await settle();
  expect(controller.status.state).toBe("awake");
  lease.release();
  clock.advance(5 * minute - 1);
  await settle();
  expect(controller.status.state).toBe("awake");
  clock.advance(1);
  await asleepAt(1);
});

test("IdleSleep keeps the engine awake for its minimum residency", async () => {
  await start({ ladder: [{ after: 10, level: 1 }], minimumAwake: "1s" });
  clock.advance(1000);
  await asleepAt(1);
  for (let cycle = 0; cycle < 3; cycle++) {
    (await controller.admit()).release();
    clock.advance(999);
    await settle();
    expect(controller.status.state).toBe("awake");
    clock.advance(1);
    await asleepAt(1);
  }
});

test("IdleSleep leaves a sleep of an operator alone", async () => {
  await controller.sleep();
  clock.advance(100 * minute);
  await settle();
  expect(controller.status).toMatchObject({ level: 1, reason: "operator" });
  expect(await codeOf(() => controller.admit(undefined, { deadlineMs: 1 }))).toBe("ENGINE_UNAVAILABLE");
  await controller.wakeUp();
  clock.advance(5 * minute);
  await asleepAt(1);
  expect(controller.status.reason).toBe("idle");
});

test("IdleSleep leaves a paused engine alone", async () => {
  await controller.pause();
  clock.advance(100 * minute);
  await settle();
  expect(controller.status.state).toBe("paused");
  await controller.resume();
  clock.advance(5 * minute);
  await asleepAt(1);
});

test("IdleSleep leaves an engine alone that was paused after it fell asleep", async () => {
  clock.advance(5 * minute);
  await asleepAt(1);
  await controller.pause();
  clock.advance(100 * minute);
  await settle();
  expect(controller.status).toMatchObject({ level: 1, paused: true });
  await controller.resume();
  clock.advance(1);
  await asleepAt(2);
});

test("IdleSleep does nothing when a pause or an operator's sleep comes before its turn", async () => {
  for (const [first, level] of [
    [() => controller.pause({ mode: "wait" }), null],
    [() => controller.sleep({ level: 1 }), 1],
  ] as const) {
    await start({ ladder: [{ after: "5m", level: 2 }] });
    const ended = Promise.withResolvers<string>();
    controller.subscribe((event) => {
      if (event.type === "transition-ended" && event.reason === "idle") ended.resolve(event.outcome);
    });
    const waking = controller.wakeUp();
    const before = first();
    clock.advance(5 * minute);
    await Promise.all([waking, before]);
    expect(await ended.promise).toBe("failed");
    expect(controller.status.level).toBe(level);
    await controller.resume();
    idle.close();
    await controller.wakeUp();
  }
});

test("IdleSleep deepens a sleep of a pool", async () => {
  await controller.sleep({ reason: "pool" });
  clock.advance(60 * minute);
  await asleepAt(2);
});

test.if(onEmulator)(
  "IdleSleep goes deeper when its lighter level fails, before or after it began",
  async () => {
    for (const [hostBudget, faults] of [
      [2 * MiB, ""],
      ["1GiB", "aclrtMallocHost:1+=207001"],
    ] as const) {
      await allocator.close();
      allocator = CaMemAllocator.getInstance({ hostBudget });
      engine = new FakeEngine(allocator);
      await start();
      const failures: (number | null)[] = [];
      controller.subscribe((event) => {
        if (event.type === "transition-ended" && event.failure) failures.push(event.level);
      });
      setFaults(faults);
      for (let count = 1; count < 12; count++) {
        clock.advance(5 * minute);
        await until(() => failures.length === count);
        await settle();
      }
      expect([controller.status.state, ...new Set(failures)]).toEqual(["awake", 1]);
      clock.advance(5 * minute);
      await asleepAt(2);
      setFaults("");
    }
  },
);

test("IdleSleep cancels its sleep when a request arrives", async () => {
  const device = holdDevice();
  clock.advance(5 * minute);
  await until(() => engine.weights.state === "moving");
  const lease = await controller.admit();
  expect(engine.weights.state).toBe("mapped");
  device.release();
  lease.release();
  await settle();
  clock.advance(5 * minute);
  await asleepAt(1);
});

test("IdleSleep retries a failed sleep after the same idle time", async () => {
  await allocator.close();
  allocator = CaMemAllocator.getInstance({ hostBudget: 2 * MiB });
  engine = new FakeEngine(allocator);
  await start();
  const failures: string[] = [];
  controller.subscribe((event) => {
    if (event.type === "transition-ended" && event.failure) failures.push(event.failure.code);
  });
  clock.advance(5 * minute);
  await until(() => failures.length === 1);
  clock.advance(5 * minute - 1);
  await settle();
  expect(failures).toEqual(["HOST_BUDGET_EXCEEDED"]);
  clock.advance(1);
  await until(() => failures.length === 2);
  expect(controller.status.state).toBe("awake");
});

test("close() stops every timer of IdleSleep", async () => {
  idle.close();
  expect(clock.timers).toBe(0);
  (await controller.admit()).release();
  expect(clock.timers).toBe(0);
});

test("IdleSleep ends when its controller closes", async () => {
  await controller.close();
  clock.advance(5 * minute);
  await settle();
  expect(clock.timers).toBe(0);
});

test("IdleSleep names invalid options", async () => {
  const bad: [unknown, string][] = [
    [undefined, 'must be an object, not undefined; IdleSleep requires "ladder"'],
    [{}, "ladder is missing in the options of IdleSleep; it must be rungs"],
    [{ ladder: [] }, "one or more"],
    [{ ladder: [{ after: "5 parsecs", level: 1 }] }, 'ladder[0].after is "5 parsecs"'],
    [
      { ladder: [{ after: "5 hours", level: 1 }] },
      "it must be milliseconds, or a time in ms, s, m, min, h or d",
    ],
    [{ ladder: [{ after: 5n, level: 1 }] }, "ladder[0].after is 5n (a bigint)"],
    [{ ladder: [{ after: -1, level: 1 }] }, "ladder[0].after is -1"],
    [{ ladder: [{ after: 5, level: 0 }] }, "ladder[0].level is 0"],
    [
      { ladder: [{ after: 5, level: 1, mode: "wait" }] },
      'ladder[0] has no option "mode"; its options are "after", "level"',
    ],
    [
      {
        ladder: [
          { after: 5, level: 1 },
          { after: 5, level: 2 },
        ],
      },
      "ladder[1] must be later and deeper",
    ],
    [
      {
        ladder: [
          { after: 5, level: 2 },
          { after: 6, level: 1 },
        ],
      },
      "ladder[1] must be later and deeper",
    ],
    [{ ladder: [{ after: 5, level: 1 }], minimumAwake: "soon" }, 'minimumAwake is "soon"'],
    [{ ladder: [{ after: 5, level: 1 }], nap: 1 }, "nap"],
  ];
  for (const [options, part] of bad) {
    const error = await failureOf(() => new IdleSleep(controller, options as IdleOptions));
    expect(error.code).toBe("INVALID_CONFIG");
    expect(error.message).toContain(part);
  }
  const pool = {} as SleepController;
  expect(await codeOf(() => new IdleSleep(pool, { ladder: [{ after: 5, level: 1 }] }))).toBe(
    "INVALID_CONFIG",
  );
});
