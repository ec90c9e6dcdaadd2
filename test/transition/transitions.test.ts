/** Sleep and wake-up as operations: event loop, abort, progress, order, and hooks. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator, CamemError, type DeviceBuffer, type TransitionProgress } from "camem";
import { localNative } from "../../src/ffi/index.ts";
import { codeOf, failureOf, holdDevice, MiB, onEmulator, pattern, setFaults } from "../support/device.ts";

let allocator: CaMemAllocator;
let weights: DeviceBuffer;
const content = pattern(3 * MiB, 7);

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  weights = allocator.malloc(content.length, { tag: "weights" });
  weights.write(content);
});

afterEach(() => allocator.close());

test("sleep() does not block the event loop while it waits for the device", async () => {
  const held = holdDevice();
  const sleeping = allocator.sleep();
  // A blocked event loop would never run this timer, so the device would stay held and the test would hang.
  await sleep(20);
  expect(weights.state).toBe("moving");
  held.release();
  expect(await sleeping).toMatchObject({ offloadedBytes: 4 * MiB });
});

test("sleep() waits for queued work before it copies", async () => {
  const held = holdDevice();
  let done = false;
  const phases: string[] = [];
  const sleeping = allocator.sleep({ onProgress: ({ phase }) => phases.push(phase) }).finally(() => {
    done = true;
  });
  await sleep(120);
  expect(done).toBe(false);
  expect(phases.at(-1)).toBe("waiting");
  held.release();
  await sleeping;
});

test("sleep() changes nothing when aborted", async () => {
  const held = holdDevice();
  const controller = new AbortController();
  const sleeping = allocator.sleep({ signal: controller.signal });
  await sleep(10);
  controller.abort("no longer idle");
  const error = await failureOf(() => sleeping);
  expect(error.code).toBe("ABORTED");
  expect(error.cause).toBe("no longer idle");
  held.release();
  expect(allocator.isSleeping).toBe(false);
  expect(weights.read()).toEqual(content);
  await allocator.sleep();
  await allocator.wakeUp();
  expect(weights.read()).toEqual(content);
});

test("sleep() changes nothing when aborted in any turn of its own while it must wait", async () => {
  for (let turn = 0; turn < 60; turn++) {
    const held = holdDevice();
    const controller = new AbortController();
    const code = codeOf(() => allocator.sleep({ signal: controller.signal }));
    for (let passed = 0; passed < turn; passed++) await Promise.resolve();
    controller.abort();
    held.release();
    expect(await code, `aborted in turn ${turn}`).toBe("ABORTED");
    expect(weights.state).toBe("mapped");
  }
});

test("sleep() rejects when somebody else cancels its plan", async () => {
  const held = holdDevice();
  const code = codeOf(() => allocator.sleep());
  const isMoving = () => weights.state === "moving";
  while (!isMoving()) await sleep(1);
  for (let ticket = 1; ticket < 100_000; ticket++) localNative.cancelPlan(ticket);
  held.release();
  expect(await code).toBe("ABORTED");
  expect(weights.state).toBe("mapped");
});

test("sleep() and wakeUp() change nothing when the signal is already aborted", async () => {
  const signal = AbortSignal.abort();
  expect(await codeOf(() => allocator.sleep({ signal }))).toBe("ABORTED");
  await allocator.sleep();
  expect(await codeOf(() => allocator.wakeUp({ signal }))).toBe("ABORTED");
  expect(allocator.isSleeping).toBe(true);
  await allocator.wakeUp();
  expect(await codeOf(() => allocator.wakeUp({ signal }))).toBe("ABORTED");
});

test("onProgress reports from no byte to all bytes and ends with done", async () => {
  const seen: TransitionProgress[] = [];
  await allocator.sleep({ onProgress: (progress) => seen.push(progress) });
  expect(seen.at(-1)).toEqual({ phase: "done", bytesDone: 3 * MiB, bytesTotal: 3 * MiB });
  expect(seen.map((progress) => progress.bytesDone)).toEqual(
    seen.map((progress) => progress.bytesDone).toSorted((a, b) => a - b),
  );
});

test("sleep() reports an error of onProgress and loses no content", async () => {
  const error = await failureOf(() =>
    allocator.sleep({
      onProgress: () => {
        throw new RangeError("display");
      },
    }),
  );
  expect(error.code).toBe("HOOK_FAILED");
  expect(error.cause).toBeInstanceOf(RangeError);
  await allocator.wakeUp();
  expect(weights.read()).toEqual(content);
});

test("sleep() and wakeUp() run one after the other when called at once", async () => {
  const reports = await Promise.all([
    allocator.sleep(),
    allocator.sleep(),
    allocator.wakeUp(),
    allocator.wakeUp(),
    allocator.sleep({ level: 2 }),
    allocator.wakeUp(),
  ]);
  expect(reports).toMatchObject([
    { offloadedBytes: 4 * MiB },
    { alreadySleeping: true },
    { restoredBytes: 4 * MiB },
    { alreadyAwake: true },
    { discardedBytes: 4 * MiB },
    { remappedBytes: 4 * MiB },
  ]);
});

test("sleep() rejects at once when aborted before its turn", async () => {
  const held = holdDevice();
  const first = allocator.sleep();
  const controller = new AbortController();
  const second = allocator.sleep({ signal: controller.signal });
  await sleep(5);
  controller.abort();
  expect(await codeOf(() => second)).toBe("ABORTED");
  expect(weights.state).toBe("moving");
  held.release();
  expect(await first).toMatchObject({ offloadedBytes: 4 * MiB });
});

test("sleep() rejects when aborted while a freed buffer waits for the device", async () => {
  const other = allocator.malloc(MiB, { tag: "kv_cache" });
  const held = holdDevice();
  const controller = new AbortController();
  const sleeping = allocator.sleep({ signal: controller.signal });
  while (other.state !== "moving") await sleep(1);
  other.free();
  controller.abort();
  expect(await codeOf(() => sleeping)).toBe("ABORTED");
  held.release();
  await allocator.sleep();
  expect(Object.keys(allocator.usage())).toEqual(["weights"]);
});

test("sleep() runs after an earlier call failed", async () => {
  const refused = codeOf(() => allocator.sleep({ signal: AbortSignal.abort() }));
  const slept = allocator.sleep();
  expect(await refused).toBe("ABORTED");
  expect(await slept).toMatchObject({ offloadedBytes: 4 * MiB });
});

test("hooks run before sleep and after wake-up, but not for a no-op", async () => {
  const calls: string[] = [];
  const remove = allocator.onTransition({
    beforeSleep: async ({ tags }) => {
      await sleep(1);
      calls.push(`before ${tags} ${weights.state}`);
    },
    afterWake: ({ tags, reason }) => calls.push(`after ${tags} ${reason} ${weights.state}`),
  });
  await allocator.sleep();
  await allocator.sleep();
  await allocator.sleep({ level: 0 });
  await allocator.wakeUp();
  await allocator.wakeUp();
  expect(calls).toEqual(["before weights mapped", "after weights wake mapped"]);
  remove();
  await allocator.sleep();
  expect(calls.length).toBe(2);
});

test("sleep() is cancelled when beforeSleep throws", async () => {
  const reasons: string[] = [];
  allocator.onTransition({ afterWake: ({ reason }) => reasons.push(reason) });
  allocator.onTransition({
    beforeSleep: () => {
      throw new RangeError("busy");
    },
  });
  const error = await failureOf(() => allocator.sleep());
  expect(error.code).toBe("HOOK_FAILED");
  expect(error.message).toContain("(busy)");
  expect(error.cause).toBeInstanceOf(RangeError);
  expect(allocator.isSleeping).toBe(false);
  expect(reasons).toEqual(["sleepFailed"]);
});

test("afterWake runs after a sleep that failed", async () => {
  const reasons: string[] = [];
  allocator.onTransition({ afterWake: ({ reason, tags }) => reasons.push(`${reason} ${tags}`) });
  const held = holdDevice();
  const controller = new AbortController();
  const sleeping = allocator.sleep({ signal: controller.signal });
  await sleep(5);
  controller.abort();
  expect(await codeOf(() => sleeping)).toBe("ABORTED");
  held.release();
  expect(reasons).toEqual(["sleepFailed weights"]);
});

test.each([["text"], [Object.create(null)], [undefined], [Symbol("mark")]])(
  "a hook may throw anything: %p",
  async (thrown) => {
    const reasons: string[] = [];
    allocator.onTransition({ afterWake: ({ reason }) => reasons.push(reason) });
    const fail = () => {
      throw thrown;
    };
    const remove = allocator.onTransition({ beforeSleep: fail, afterWake: fail });
    const calledOff = await failureOf(() => allocator.sleep());
    expect(calledOff.code).toBe("HOOK_FAILED");
    expect(reasons).toEqual(["sleepFailed"]);
    remove();
    await allocator.sleep();
    allocator.onTransition({ afterWake: fail });
    expect(await failureOf(() => allocator.wakeUp())).toMatchObject({ code: "HOOK_FAILED", cause: thrown });
  },
);

test.skipIf(!onEmulator)(
  "sleep() does not claim that memory is awake when undoing and a hook fail",
  async () => {
    allocator.malloc(MiB, { tag: "weights" });
    allocator.onTransition({
      afterWake: () => {
        throw new RangeError("hook");
      },
    });
    setFaults("aclrtUnmapMem:2=507899,aclrtMapMem:1=507899");
    const error = await failureOf(() => allocator.sleep());
    setFaults("");
    expect(error.code).toBe("HOOK_FAILED");
    expect(error.message).not.toContain("itself is awake");
    expect(error.message).toContain("some memory is asleep");
    expect(allocator.isSleeping).toBe(true);
  },
);

test("wakeUp() reports an afterWake hook that throws, and memory is awake", async () => {
  allocator.onTransition({
    afterWake: () => {
      throw new RangeError("graph");
    },
  });
  await allocator.sleep();
  expect(await codeOf(() => allocator.wakeUp())).toBe("HOOK_FAILED");
  expect(allocator.isSleeping).toBe(false);
});

test("wakeUp() runs every afterWake hook and reports all their errors", async () => {
  const ran: string[] = [];
  allocator.onTransition({
    beforeSleep: () => {
      throw new RangeError("busy");
    },
    afterWake: () => {
      ran.push("first");
      throw new RangeError("graph");
    },
  });
  allocator.onTransition({ afterWake: () => ran.push("second") });
  const error = await failureOf(() => allocator.sleep());
  expect(error.code).toBe("HOOK_FAILED");
  expect((error.cause as AggregateError).errors.length).toBe(2);
  // Only hooks whose beforeSleep ran must rebuild.
  expect(ran).toEqual(["first"]);
  await allocator.close();
});

test("sleep() and wakeUp() throw when called from a hook", async () => {
  const codes: string[] = [];
  const attempt = async (run: () => Promise<unknown>) => codes.push(await codeOf(run));
  allocator.onTransition({
    beforeSleep: async () => {
      await attempt(() => allocator.sleep());
      await attempt(() => allocator.close());
      using scratch = allocator.malloc(MiB, { tag: "sleep_persistent" });
      scratch.fill(1);
    },
    afterWake: () => attempt(() => allocator.wakeUp()),
  });
  await allocator.sleep();
  await allocator.wakeUp();
  expect(codes).toEqual(["CALLED_FROM_HOOK", "CALLED_FROM_HOOK", "CALLED_FROM_HOOK"]);
});

test("sleep() succeeds when a hook schedules it for later", async () => {
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const remove = allocator.onTransition({
    afterWake: () => void setTimeout(() => resolve(allocator.sleep()), 1),
  });
  await allocator.sleep();
  await allocator.wakeUp();
  expect(await promise).toMatchObject({ offloadedBytes: 4 * MiB });
  remove();
});

test("sleep() rejects on abort and close() when a hook never settles", async () => {
  allocator.onTransition({ beforeSleep: () => new Promise(() => undefined) });
  const controller = new AbortController();
  const sleeping = codeOf(() => allocator.sleep({ signal: controller.signal }));
  await sleep(1);
  controller.abort();
  expect(await sleeping).toBe("ABORTED");
  const again = codeOf(() => allocator.sleep());
  await sleep(1);
  await allocator.close();
  expect(await again).toBe("CLOSED");
});

test("sleep() does not move memory that a hook allocates", async () => {
  let stash: DeviceBuffer | undefined;
  allocator.onTransition({
    beforeSleep: () => {
      stash ??= allocator.malloc(MiB, { tag: "kv_cache" });
    },
  });
  await allocator.sleep();
  expect(stash?.state).toBe("mapped");
});

test("sleep() counts backups made during a hook against the host budget", async () => {
  await allocator.close();
  allocator = CaMemAllocator.getInstance({ hostBudget: 6 * MiB });
  const known = allocator.malloc(3 * MiB, { tag: "weights" });
  let younger: DeviceBuffer | undefined;
  allocator.onTransition({
    beforeSleep: async () => {
      younger = allocator.malloc(6 * MiB, { tag: "adapters" });
      await offloadAsAnotherWorker(younger);
    },
  });
  const error = await failureOf(() => allocator.sleep());
  expect(error).toMatchObject({ code: "HOST_BUDGET_EXCEEDED", sizeBytes: 4 * MiB });
  expect([known.state, younger?.state]).toEqual(["mapped", "offloaded"]);
  expect(allocator.hostUsage().pageLockedBytes).toBe(6 * MiB);
});

/** Offloads the only group of segments that is as large as `buffer`. */
async function offloadAsAnotherWorker(buffer: DeviceBuffer): Promise<void> {
  const { groups, version } = localNative.segmentGroups(Number.MAX_SAFE_INTEGER);
  const group = groups.find(({ segmentBytes }) => segmentBytes === buffer.sizeBytes);
  if (group === undefined) throw new Error("there is no such group");
  const found = {
    unreleased: false,
    clean: false,
    backedUp: false,
    state: "mapped",
    tagId: group.tag,
  } as const;
  const ticket = localNative.submitPlan(
    [{ group: { ...group, ...found }, action: "offload", immutable: false, zero: false, spilledSegments: 0 }],
    { lastSegmentId: group.lastSegmentId, version },
    { verify: false, pageable: false, spill: false },
  );
  if (typeof ticket !== "number") throw new Error(`the plan was refused as ${ticket}`);
  while (localNative.pollPlan(ticket)?.totalNs === 0) await sleep(1);
}

test("afterWake runs when onProgress throws at the end of a wake-up", async () => {
  const reasons: string[] = [];
  allocator.onTransition({ afterWake: ({ reason }) => reasons.push(reason) });
  await allocator.sleep();
  const error = await failureOf(() =>
    allocator.wakeUp({
      onProgress: ({ phase }) => {
        if (phase === "done") throw new RangeError("display");
      },
    }),
  );
  expect(error).toMatchObject({ code: "HOOK_FAILED", transitionComplete: true });
  expect(reasons).toEqual(["wake"]);
});

test("sleep() reports an onProgress that rejects", async () => {
  const error = await failureOf(() =>
    allocator.sleep({ onProgress: () => Promise.reject(new RangeError("late")) as unknown as undefined }),
  );
  expect(error.code).toBe("HOOK_FAILED");
});

test("close() called twice waits for the same end", async () => {
  const held = holdDevice();
  let closed = 0;
  const closings = [allocator.close(), allocator.close()].map((closing) => closing.then(() => closed++));
  await sleep(20);
  expect(closed).toBe(0);
  expect(await codeOf(() => CaMemAllocator.getInstance().malloc(1))).toBe("CLOSED");
  held.release();
  await Promise.all(closings);
  expect(closed).toBe(2);
});

test("sleep() follows the policy of each tag, and never moves sleep_persistent", async () => {
  allocator.defineTag("adapters", { 1: "keep", 2: "offload" });
  using adapters = allocator.malloc(MiB, { tag: "adapters" });
  await allocator.sleep({ level: 1 });
  expect(adapters.state).toBe("mapped");
  await allocator.sleep({ level: 2 });
  expect(adapters.state).toBe("offloaded");
  await allocator.wakeUp();
  allocator.defineTag("weights", { 1: "discard" });
  await allocator.sleep({ level: 1 });
  expect(weights.state).toBe("discarded");
  const define = () => allocator.defineTag("sleep_persistent", { 1: "discard" });
  expect(define).toThrow(CamemError);
});
