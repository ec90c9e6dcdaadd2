import { beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { RemoteAllocator, type RemoteEvent } from "camem";
import { SleepController } from "camem/server";
import { buildControlProgram, type ControlProgram, startControlProgram } from "../support/control-program.ts";
import { codeOf, failureOf, MiB } from "../support/device.ts";

const buildTimeoutMs = 300_000;

beforeAll(buildControlProgram, buildTimeoutMs);

/** Resolves with the next event of a type. */
function nextEvent<Type extends RemoteEvent["type"]>(allocator: RemoteAllocator, type: Type) {
  const { promise, resolve } = Promise.withResolvers<Extract<RemoteEvent, { type: Type }>>();
  allocator.subscribe((event) => {
    if (event.type === type) resolve(event as Extract<RemoteEvent, { type: Type }>);
  });
  return promise;
}

const connect = ({ path }: ControlProgram, timeout = "5s") => RemoteAllocator.connect({ path }, { timeout });

/** Stops the process of an engine, which takes a moment. */
async function halt({ pid }: ControlProgram): Promise<void> {
  process.kill(pid, "SIGSTOP");
  while (!/^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) await Bun.sleep(1);
}

/** So slow that every phase of a transition of 12 MiB can be seen. */
const slow = {
  CAMEM_EMULATOR_TIMING:
    "d2h=200MiB/s,h2d=200MiB/s,aclrtSynchronizeDeviceWithTimeout=20ms,aclrtUnmapMem=20ms,aclrtMapMem=20ms,aclrtMallocHost=500MiB/s,aclrtFreeHost=20ms",
};

test("sleep() and wakeUp() move an engine's memory, and its content is the same", async () => {
  await using engine = await startControlProgram(["default=6", "kv=4"]);
  await using allocator = await connect(engine);
  const before = allocator.memGetInfo().freeBytes;
  expect(await allocator.sleep()).toMatchObject({ level: 1, offloadedBytes: 10 * MiB, discardedBytes: 0 });
  expect(allocator.isSleeping).toBe(true);
  expect(allocator.memGetInfo().freeBytes - before).toBe(10 * MiB);
  expect(allocator.hostUsage().pageLockedBytes).toBe(10 * MiB);
  expect(allocator.plan("wake")).toMatchObject({
    fits: true,
    devices: [{ device: 0, neededBytes: 10 * MiB }],
  });
  expect(await allocator.wakeUp()).toMatchObject({ restoredBytes: 10 * MiB, stillAsleep: [] });
  expect(await engine.tell("verify")).toBe("equal");
  expect([allocator.devices, allocator.pid]).toEqual([[0], engine.pid]);
});

test("level 2 offloads too, but for tags that defineTag() says otherwise of", async () => {
  await using engine = await startControlProgram(["default=6", "kv=4"]);
  await using allocator = await connect(engine);
  allocator.defineTag("kv", { 2: "discard" });
  expect(await allocator.sleep({ level: 2 })).toMatchObject({
    offloadedBytes: 6 * MiB,
    discardedBytes: 4 * MiB,
  });
  await using another = await connect(engine);
  expect(await another.wakeUp()).toMatchObject({ lostTags: ["kv"] });
});

test("prepare() page-locks in the engine, and hostBudget limits what a sleep takes", async () => {
  await using engine = await startControlProgram(["default=6"]);
  await using allocator = await RemoteAllocator.connect({ path: engine.path }, { hostBudget: "4MiB" });
  expect(await codeOf(() => allocator.sleep())).toBe("HOST_BUDGET_EXCEEDED");
  await using other = await connect(engine);
  expect((await other.prepare()).preparedBytes).toBe(6 * MiB);
});

test("segments() says how each segment was written and which rule applies", async () => {
  await using engine = await startControlProgram(["default=6"]);
  await using allocator = await connect(engine);
  expect(allocator.segments()).toMatchObject([
    {
      sizeBytes: 6 * MiB,
      tag: "default",
      state: "mapped",
      written: ["host"],
      rule: "size>=1MiB: offload",
    },
  ]);
});

test("subscribe() reports calls that found memory asleep", async () => {
  await using engine = await startControlProgram(["default=2"]);
  await using allocator = await connect(engine);
  const touched = nextEvent(allocator, "touched");
  await Bun.sleep(50);
  await engine.tell("touch");
  expect((await touched).status).toMatchObject({ name: "control-program", touches: 1 });
});

test("connect() refuses targets and options that do not fit", async () => {
  const wrong = (target: unknown, options?: object) =>
    codeOf(() => RemoteAllocator.connect(target as { pid: number }, options));
  expect(await wrong({})).toBe("INVALID_ARGUMENT");
  expect(await wrong({ pid: 1, path: "/x" })).toBe("INVALID_ARGUMENT");
  expect(await wrong({ pid: "1" })).toBe("INVALID_ARGUMENT");
  expect(await wrong({ path: "/x" }, { timout: 1 })).toBe("INVALID_ARGUMENT");
  expect(await wrong({ path: "/x" }, { timeout: "soon" })).toBe("INVALID_ARGUMENT");
  await using engine = await startControlProgram(["default=2"]);
  expect(await wrong({ path: engine.path }, { device: 9 })).toBe("UNKNOWN_DEVICE");
});

describe("when the engine is gone", () => {
  test("calls throw ENGINE_GONE and an event says so when it is killed", async () => {
    await using engine = await startControlProgram(["default=2"]);
    await using allocator = await connect(engine);
    const gone = nextEvent(allocator, "gone");
    await engine.kill();
    expect((await gone).error.message).toContain(`process ${engine.pid}) is gone`);
    expect(await codeOf(() => allocator.usage())).toBe("ENGINE_GONE");
    expect(await codeOf(() => allocator.sleep())).toBe("ENGINE_GONE");
    expect(await codeOf(() => connect(engine))).toBe("ENGINE_NOT_FOUND");
  });

  test.each([
    ["sleep", "waiting"],
    ["sleep", "preparing"],
    ["sleep", "copying"],
    ["sleep", "releasing"],
    ["wakeUp", "copying"],
    ["wakeUp", "releasing"],
  ] as const)("%s() rejects with ENGINE_GONE when it is killed while %s", async (verb, phase) => {
    await using engine = await startControlProgram(["default=6", "default=6"], slow);
    await using allocator = await connect(engine);
    if (verb === "wakeUp") await allocator.sleep();
    let isKilled = false;
    const onProgress = (progress: { phase: string }) => {
      if (progress.phase !== phase || isKilled) return;
      isKilled = true;
      process.kill(engine.pid, "SIGKILL");
    };
    expect(await codeOf(() => allocator[verb]({ onProgress }))).toBe("ENGINE_GONE");
    expect(isKilled).toBe(true);
  });

  test("it is gone although a forked child holds what it has inherited", async () => {
    await using engine = await startControlProgram(["default=2"]);
    await using allocator = await connect(engine);
    const gone = nextEvent(allocator, "gone");
    await engine.tell("fork");
    await engine.kill();
    await gone;
    expect(await codeOf(() => connect(engine))).toBe("ENGINE_NOT_FOUND");
  });

  test("a call gives up after the timeout when it is stopped, and the event follows", async () => {
    await using engine = await startControlProgram(["default=2"]);
    await using allocator = await connect(engine, "100ms");
    const gone = nextEvent(allocator, "gone");
    await halt(engine);
    const failure = await failureOf(() => allocator.memGetInfo());
    expect([failure.code, failure.message]).toEqual([
      "ENGINE_GONE",
      expect.stringContaining("does not answer"),
    ]);
    expect(await codeOf(() => connect(engine, "100ms"))).toBe("ENGINE_GONE");
    await gone;
    process.kill(engine.pid, "SIGCONT");
    expect(await codeOf(() => allocator.usage())).toBe("ENGINE_GONE");
    expect((await connect(engine)).usage()).toHaveProperty("default");
  });

  test("connections end with the session that they know the numbers of", async () => {
    await using engine = await startControlProgram(["default=2"]);
    await using allocator = await connect(engine);
    const gone = nextEvent(allocator, "gone");
    await engine.tell("renew");
    await gone;
    await using again = await connect(engine);
    expect(again.getCurrentUsage()).toBe(2 * MiB);
  });

  test("a stopped server leaves no socket behind", async () => {
    await using engine = await startControlProgram(["default=2"]);
    await engine.tell("stop");
    expect(await failureOf(() => connect(engine))).toMatchObject({ code: "ENGINE_NOT_FOUND" });
  });

  test("a controller of it fails its transitions and refuses requests", async () => {
    await using engine = await startControlProgram(["default=2"]);
    await using allocator = await connect(engine);
    const controller = new SleepController(allocator);
    await controller.sleep();
    const gone = nextEvent(allocator, "gone");
    await engine.kill();
    await gone;
    expect(await codeOf(() => controller.wakeUp())).toBe("ENGINE_GONE");
    expect(controller.status).toMatchObject({ state: "failed", failure: { code: "ENGINE_GONE" } });
  });
});

describe("when the controller is gone", () => {
  test.each([
    ["sleep", "waiting"],
    ["sleep", "copying"],
    ["sleep", "releasing"],
    ["wakeUp", "releasing"],
    ["wakeUp", "copying"],
  ])(
    "the engine finishes a %s of a controller that was killed while %s, and nothing is lost",
    async (verb, phase) => {
      await using engine = await startControlProgram(["default=6", "default=6"], slow);
      await using allocator = await connect(engine);
      if (verb === "wakeUp") await allocator.sleep();
      const script = `
      import { RemoteAllocator } from "camem";
      const allocator = await RemoteAllocator.connect({ path: ${JSON.stringify(engine.path)} });
      const onProgress = ({ phase }) => { if (phase === "${phase}") process.kill(process.pid, "SIGKILL"); };
      await allocator.${verb}({ onProgress });`;
      const controller = Bun.spawn([process.execPath, "-e", script], {
        cwd: import.meta.dir,
        stderr: "inherit",
      });
      await controller.exited;
      expect(controller.signalCode).toBe("SIGKILL");
      // The next transition waits for the one in progress.
      await allocator.sleep();
      await allocator.wakeUp();
      expect(await engine.tell("verify")).toBe("equal");
    },
  );
});

test("two controllers of one engine take turns, and nothing is lost", async () => {
  await using engine = await startControlProgram(["default=6", "kv=4"]);
  await using first = await connect(engine);
  await using second = await connect(engine);
  for (let cycle = 0; cycle < 10; cycle++)
    await Promise.all([first.sleep(), second.wakeUp(), second.sleep({ tags: ["kv"] }), first.wakeUp()]);
  await first.wakeUp();
  expect(await engine.tell("verify")).toBe("equal");
});

test("close() leaves the engine as it is", async () => {
  await using engine = await startControlProgram(["default=2"]);
  const allocator = await connect(engine);
  await allocator.sleep();
  await allocator.close();
  expect(await failureOf(() => allocator.usage())).toMatchObject({
    code: "CLOSED",
    message: "the allocator is closed; call RemoteAllocator.connect() again",
  });
  await using again = await connect(engine);
  expect(again.isSleeping).toBe(true);
});
