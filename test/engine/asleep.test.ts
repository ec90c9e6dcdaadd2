/** What a program can do while its memory is asleep, and what happens when it touches that. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import type { CamemError, RemoteAllocator } from "camem";
import { type BuiltEngine, buildEngine, EngineProcess, preloadLibrary } from "./engine.ts";

let engine: BuiltEngine;

beforeAll(() => {
  engine = buildEngine();
}, 300_000);
afterAll(() => rm(engine.folder, { recursive: true, force: true }));

const mib = 1 << 20;

/** Gives orders in turn, each with the answer that it must have. */
async function expectAnswers(
  running: EngineProcess,
  ...orders: [call: string, answer: string][]
): Promise<void> {
  for (const [call, answer] of orders)
    expect(`${call} -> ${await running.ask(call)}`).toBe(`${call} -> ${answer}`);
}

/** A program with memory of every kind, all asleep; callers that touch it wait. */
async function startAsleep(
  onTouch = "hold",
  environment: Readonly<Record<string, string>> = {},
): Promise<{ running: EngineProcess; allocator: RemoteAllocator }> {
  const running = await EngineProcess.start(engine, {
    program: "probe",
    preload: preloadLibrary,
    environment: { CAMEM_ON_TOUCH: onTouch, ...environment },
  });
  await expectAnswers(
    running,
    ["init . .", "0"],
    ["set . . 0", "0"],
    [`malloc a . ${4 * mib} 0`, "0"],
    ["malloc s . 100 0", "0"],
    ["malloc t . 100 0", "0"],
    [`reserve v . ${16 * mib}`, "0"],
    [`physical h . ${2 * mib} 0`, "0"],
    [`map v h 0 ${2 * mib} 0`, "0"],
    [`fill a . ${4 * mib} 5 0`, "0"],
    ["fill s . 100 6 0", "0"],
    [`fill v . ${2 * mib} 7 0`, "0"],
  );
  const allocator = await running.connect();
  await allocator.sleep();
  return { running, allocator };
}

/** Resolves once as many calls wait at the gate. */
async function untilWaiting(allocator: RemoteAllocator, calls: number): Promise<void> {
  while (allocator.status().waitingCalls < calls) await Bun.sleep(1);
}

test("frees, unmaps and queries work at once while everything is asleep", async () => {
  const { running, allocator } = await startAsleep();
  await using _ = running;
  await using __ = allocator;
  await expectAnswers(
    running,
    ["attributes a . 4096", "0 1 0"],
    ["range a . 100", `0 100 ${4 * mib + 32}`],
    ["range s . 10", "0 10 512"],
    ["attributes v . 0", "0 1 0"],
    ["range v . 5", `0 5 ${2 * mib}`],
    ["properties h .", "0 4 0"],
    ["release v .", "507899"],
    ["free a .", "0"],
    ["free s .", "0"],
    ["free t .", "0"],
    ["free t .", "107000"],
    ["free_physical h .", "0"],
    ["unmap v . 0", "0"],
    ["release v .", "0"],
    ["properties h .", "107017 0 0"],
  );
  expect(allocator.status()).toMatchObject({ touches: 0, waitingCalls: 0 });
});

test("the gate opens when the program has freed all that was asleep", async () => {
  const { running, allocator } = await startAsleep();
  await using _ = running;
  await using __ = allocator;
  await expectAnswers(running, ["free a .", "0"], ["free s .", "0"], ["free t .", "0"]);
  expect(allocator.status().gate).toBe("asleep");
  await expectAnswers(running, ["unmap v . 0", "0"], ["free_physical h .", "0"]);
  // The chunk that small allocations share stays, asleep.
  await allocator.wakeUp();
  await expectAnswers(running, ["malloc b . 100 0", "0"], ["fill b . 100 1 0", "0"]);
});

test("new memory is usable beside what is asleep once the call may pass", async () => {
  const { running, allocator } = await startAsleep("wake");
  await using _ = running;
  await using __ = allocator;
  await expectAnswers(
    running,
    [`malloc b . ${6 * mib} 0`, "0"],
    [`fill b . ${6 * mib} 9 0`, "0"],
    ["read a . 3", "0 5"],
    ["read s . 3", "0 6"],
    ["read v . 3", "0 7"],
  );
  expect(allocator.status()).toMatchObject({ gate: "open", ownWakeUps: 1, ownWakeUpFailure: null });
});

describe.each(["reset . . 0", "reset_force . . 0", "finalize . ."])("%s while asleep", (call) => {
  test("returns at once and gives everything back", async () => {
    const { running, allocator } = await startAsleep();
    await using _ = running;
    await using __ = allocator;
    await expectAnswers(running, [call, "0"]);
    if (call !== "finalize . .") expect(allocator.getCurrentUsage()).toBe(0);
    await expectAnswers(
      running,
      ["init . .", call === "finalize . ." ? "0" : "100002"],
      ["set . . 0", "0"],
      [`malloc a . ${4 * mib} 0`, "0"],
      [`fill a . ${4 * mib} 5 0`, "0"],
      ["read a . 100", "0 5"],
    );
  });
});

test("a call that touches sleeping memory waits for a controller with CAMEM_ON_TOUCH=hold", async () => {
  const { running, allocator } = await startAsleep();
  await using _ = running;
  await using __ = allocator;
  const answer = running.ask("read a . 3");
  await untilWaiting(allocator, 1);
  expect(allocator.status()).toMatchObject({ gate: "asleep", ownWakeUps: 0 });
  await allocator.wakeUp();
  expect(await answer).toBe("0 5");
});

test("a call that touches sleeping memory fails with CAMEM_ON_TOUCH=fail", async () => {
  const { running, allocator } = await startAsleep("fail");
  await using _ = running;
  await using __ = allocator;
  await expectAnswers(running, ["read a . 3", "507053 0"], ["fill a . 10 1 0", "507053"]);
  await allocator.wakeUp();
  await expectAnswers(running, ["read a . 3", "0 5"]);
});

test("an operator waits at the gate, and fails as operators do with CAMEM_ON_TOUCH=fail", async () => {
  const { running, allocator } = await startAsleep("fail");
  await using _ = running;
  await using __ = allocator;
  await expectAnswers(running, ["operator a . 33", "361001"]);
  await allocator.wakeUp();
  await expectAnswers(running, ["operator a . 33", "0"], ["read a . 0", "0 33"]);
});

test("a program ends at once while it is asleep", async () => {
  const { running, allocator } = await startAsleep();
  await using _ = running;
  await using __ = allocator;
  expect(await running.quit()).toBe(0);
});

test("a program ends at once while one of its calls waits at the gate", async () => {
  const { running, allocator } = await startAsleep();
  await using _ = running;
  await using __ = allocator;
  await expectAnswers(running, ["thread . .\nread a . 3", "0"]);
  await untilWaiting(allocator, 1);
  expect(await running.quit()).toBe(0);
});

test("a wake-up of the library's own that fails leaves everything asleep, and the caller waits", async () => {
  const { running, allocator } = await startAsleep("wake", {
    CAMEM_EMULATOR_FAULTS: "aclrtMallocPhysical:4=207001",
  });
  await using _ = running;
  await using __ = allocator;
  const answer = running.ask("read a . 3");
  while (allocator.status().ownWakeUps < 1) await Bun.sleep(1);
  const { gate, ownWakeUpFailure } = allocator.status();
  expect({ gate, ownWakeUpFailure }).toEqual({
    gate: "asleep",
    ownWakeUpFailure: expect.stringContaining("fault"),
  });
  expect(await answer).toBe("0 5"); // the next attempt
  expect(allocator.status().ownWakeUps).toBe(2);
});

test("an allocation for which there is no room while asleep wakes the program and tries again", async () => {
  const { running, allocator } = await startAsleep("wake", {
    CAMEM_EMULATOR_FAULTS: "aclrtMallocPhysical:4=207001",
  });
  await using _ = running;
  await using __ = allocator;
  await expectAnswers(running, [`malloc b . ${6 * mib} 0`, "0"]);
  expect(allocator.status()).toMatchObject({ gate: "open", ownWakeUps: 1 });
});

test("a child of fork() that uses AscendCL starts with memory of its own", async () => {
  const running = await EngineProcess.start(engine, { program: "probe", preload: preloadLibrary });
  await using _ = running;
  await expectAnswers(
    running,
    ["fork\ninit . .", "0"],
    ["set . . 0", "0"],
    ["malloc a . 5000000 0", "0"],
    ["fill a . 5000000 3 0", "0"],
    ["read a . 7", "0 3"],
    ["free a .", "0"],
    ["done", "0"],
    ["device . .", "107002 -1"],
  );
});

test("a sleep waits for the end of a capture, which it does not disturb", async () => {
  const { running, allocator } = await startAsleep();
  await using _ = running;
  await using __ = allocator;
  await allocator.wakeUp();
  await expectAnswers(running, ["stream s .", "0"], ["capture s . 1", "0"], ["free a .", "0"]);
  const sleep = allocator.sleep();
  await Bun.sleep(30);
  expect(allocator.status().gate).toBe("moving");
  await expectAnswers(running, ["end_capture s m", "0"]);
  expect((await sleep).freedBytes).toBeGreaterThan(0);
});

test("a sleep is undone when a call that it waits for unmaps memory", async () => {
  const { running, allocator } = await startAsleep();
  await using _ = running;
  await using __ = allocator;
  await allocator.wakeUp();
  const answer = running.ask("operator v . 0");
  await Bun.sleep(30);
  expect(await allocator.sleep().catch((error: CamemError) => error.code)).toBe("BUFFER_MOVING");
  expect(await answer).toBe("0");
  expect((await allocator.sleep()).freedBytes).toBeGreaterThan(0);
});

test("the status says how a program bypasses the library", async () => {
  await using running = await EngineProcess.start(engine, { program: "probe", preload: preloadLibrary });
  await expectAnswers(
    running,
    ["init . .", "0"],
    ["set . . 0", "0"],
    [`bypass a . ${4 * mib}`, "0"],
    [`fill a . ${4 * mib} 5 0`, "0"],
  );
  await using allocator = await running.connect();
  const nothing =
    "uses a device and has allocated nothing through libcamem_preload.so, so that nothing sleeps";
  const frees = "frees memory that it allocated past libcamem_preload.so, which does not sleep";
  expect(allocator.status().bypasses).toEqual([nothing]);
  await expectAnswers(running, ["free a .", "0"]);
  expect(allocator.status().bypasses).toEqual([nothing, frees]);
  await expectAnswers(running, ["malloc a . 100 0", "0"]);
  expect(allocator.status().bypasses).toEqual([frees]);
});
