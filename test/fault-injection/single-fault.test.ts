/** One fault in a certain AscendCL call of a verb, and the memory that the verb holds afterwards. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { CamemError } from "camem";
import { localNative } from "../../src/ffi/index.ts";
import {
  accounting,
  callCount,
  failureOf,
  holdDevice,
  MiB,
  nothingHeld,
  onEmulator,
  setFaults,
} from "../support/device.ts";
import { expectExactAccounting, internalError, LoadedModel, outOfMemory } from "./loaded-model.ts";

let model: LoadedModel;

beforeEach(() => {
  model = new LoadedModel();
  model.load();
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await model.allocator.close();
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
});

async function countOf(run: () => unknown): Promise<number> {
  setFaults("");
  await run();
  return callCount("*");
}

test.skipIf(!onEmulator)("sleep() and wakeUp() unmap nothing when a copy on the device fails", async () => {
  setFaults(`aclrtMemcpyAsync.task:2=${internalError}`);
  const error = await failureOf(() => model.allocator.sleep());
  expect(error.call).toBe("aclrtSynchronizeStream");
  setFaults("");
  expect(model.allocator.isSleeping).toBe(false);
  model.expectContents({ all: true });
  await model.allocator.sleep();
  setFaults(`aclrtMemcpyAsync.task:1=${internalError}`);
  expect((await failureOf(() => model.allocator.wakeUp())).call).toBe("aclrtSynchronizeStream");
  setFaults("");
  expect(model.allocator.isSleeping).toBe(true);
  await model.allocator.wakeUp();
  model.expectContents({ all: false });
});

test.skipIf(!onEmulator)("sleep() and wakeUp() free what a sleep of another tag could not free", async () => {
  const { allocator } = model;
  for (const retry of [
    () => allocator.sleep({ tags: ["kv_cache"] }),
    () => allocator.wakeUp({ tags: ["kv_cache"] }),
  ]) {
    const before = accounting().physicalHandles;
    setFaults(`aclrtFreePhysical:1=${internalError}`);
    expect((await failureOf(() => allocator.sleep({ tags: ["weights"] }))).transitionComplete).toBe(true);
    setFaults("");
    const left = localNative.snapshot().filter(({ unreleased }) => unreleased === 1);
    expect(left).toHaveLength(1);
    await retry();
    expect(localNative.snapshot().some(({ unreleased }) => unreleased === 1)).toBe(false);
    expect(accounting().physicalHandles).toBeLessThan(before);
    await allocator.wakeUp();
    model.expectContents({ all: false });
  }
});

/** No wait for the device succeeds: copies may run for ever. */
const noWait = ["Stream", "Device", "DeviceWithTimeout"]
  .map((name) => `aclrtSynchronize${name}:1+=${internalError}`)
  .join(",");

test.skipIf(!onEmulator)(
  "sleep() keeps backups that earlier copies may write to when it fails again",
  async () => {
    setFaults(noWait.replace("aclrtSynchronizeDeviceWithTimeout", "aclrtSynchronizeEvent"));
    await failureOf(() => model.allocator.sleep());
    const held = accounting().hostAllocationBytes;
    expect(held).toBeGreaterThan(0);
    setFaults(noWait);
    await failureOf(() => model.allocator.sleep());
    expect(accounting().hostAllocationBytes).toBe(held);
    setFaults("");
    await model.allocator.sleep();
    await model.allocator.wakeUp();
    model.expectContents({ all: false });
  },
);

test.skipIf(!onEmulator)(
  "wakeUp() keeps memory that earlier copies may write to when it fails again",
  async () => {
    await model.allocator.sleep();
    setFaults(noWait.replace("aclrtSynchronizeDeviceWithTimeout", "aclrtSynchronizeEvent"));
    await failureOf(() => model.allocator.wakeUp());
    const held = accounting().physicalBytes;
    setFaults(noWait);
    await failureOf(() => model.allocator.wakeUp());
    expect(accounting().physicalBytes).toBe(held);
    setFaults("");
    await model.allocator.wakeUp();
    model.expectContents({ all: false });
  },
);

test.skipIf(!onEmulator)("free() succeeds again after it failed and a later plan completed it", async () => {
  const [first] = model.items;
  setFaults(`aclrtFreePhysical:1=${internalError}`);
  expect((await failureOf(() => first?.buffer.free())).call).toBe("aclrtFreePhysical");
  setFaults("");
  expect(first?.buffer.state).toBe("freed");
  // The next plan releases the rest; another buffer may use the address from then on.
  await model.allocator.sleep();
  await model.allocator.wakeUp();
  first?.buffer.free();
  expect((await failureOf(() => first?.buffer.free())).code).toBe("BUFFER_FREED");
});

test.skipIf(!onEmulator)(
  "wakeUp() frees the host memory that an earlier wake-up could not free",
  async () => {
    await model.allocator.sleep();
    setFaults(`aclrtFreeHost:1=${internalError}`);
    const error = await failureOf(() => model.allocator.wakeUp());
    expect(error).toMatchObject({ call: "aclrtFreeHost", transitionComplete: true });
    setFaults("");
    expect(accounting().hostAllocations).toBe(1);
    expect(await model.allocator.wakeUp()).toMatchObject({ alreadyAwake: true, restoredBytes: 0 });
    expect(accounting().hostAllocations).toBe(0);
    model.expectContents({ all: false });
  },
);

test.skipIf(!onEmulator)("sleep() copies nothing when it cannot allocate its host memory", async () => {
  setFaults("");
  await model.allocator.sleep();
  const blocks = callCount("aclrtMallocHost");
  await model.allocator.wakeUp();
  expect(blocks).toBe(3);
  setFaults(`aclrtMallocHost:${blocks}=${outOfMemory}`);
  expect((await failureOf(() => model.allocator.sleep())).code).toBe("OUT_OF_HOST_MEMORY");
  expect(callCount("aclrtMemcpyAsync")).toBe(0);
});

test.skipIf(!onEmulator)(
  "sleep() keeps no backup of dropped content when a call fails after the point of no return",
  async () => {
    await model.allocator.sleep();
    // No earlier call left memory to free, so each of these calls belongs to this sleep.
    const calls = await countOf(() => model.allocator.sleep({ level: 2 }));
    for (let k = 1; k <= calls; k++) {
      await model.allocator.wakeUp();
      await model.allocator.sleep();
      setFaults(`*:${k}=${internalError}`);
      const outcome = await model.allocator.sleep({ level: 2 }).catch((error) => error);
      setFaults("");
      if (outcome instanceof CamemError && !outcome.transitionComplete) continue;
      expect(model.allocator.usage()["weights"]).toMatchObject({ hostBytes: 0, discardedBytes: 6 * MiB });
    }
  },
);

test.skipIf(!onEmulator)("sleep() keeps the memory of its copies when waiting for them fails", async () => {
  setFaults(`aclrtSynchronizeStream:1+=${internalError},aclrtSynchronizeDevice:1+=${internalError}`);
  await failureOf(() => model.allocator.sleep());
  setFaults("");
  model.expectContents({ all: true });
  expect(model.allocator.usage()["weights"]).toMatchObject({ state: "awake", hostBytes: 6 * MiB });
  expect(await model.allocator.wakeUp()).toMatchObject({ alreadyAwake: true });
  expect(model.allocator.hostUsage().pageLockedBytes).toBe(0);
  expect(model.allocator.usage()["weights"]?.hostBytes).toBe(0);
  await model.allocator.sleep();
  await model.allocator.wakeUp();
  model.expectContents({ all: false });
});

test.skipIf(!onEmulator)("sleep() frees the backup that an earlier sleep could not free", async () => {
  await model.allocator.sleep({ level: 1 });
  setFaults(`aclrtFreeHost:1=${internalError}`);
  const error = await failureOf(() => model.allocator.sleep({ level: 2, tags: ["weights"] }));
  expect(error).toMatchObject({ call: "aclrtFreeHost", transitionComplete: true });
  setFaults("");
  await model.allocator.sleep({ level: 2 });
  expect(model.allocator.usage()["weights"]).toMatchObject({ hostBytes: 0, state: "asleep" });
});

test.skipIf(!onEmulator).each([
  ["aclrtGetCurrentContext", 0],
  ["aclrtGetCurrentContext", 1],
  ["aclrtSetCurrentContext", 1],
] as const)("wakeUp() and sleep() succeed after %s failed in malloc() on device %i", async (call, device) => {
  setFaults("");
  const extra = model.allocator.malloc(1, { device });
  const calls = callCount(call);
  extra.free();
  expect(calls).toBeGreaterThan(0);
  await model.allocator.sleep();
  for (let k = 1; k <= calls; k++) {
    setFaults(`${call}:${k}+=${internalError}`);
    expect((await failureOf(() => model.allocator.malloc(1, { device }))).call).toBe(call);
    setFaults("");
    await model.allocator.wakeUp();
    model.expectContents({ all: false });
    expectExactAccounting();
    await model.allocator.sleep();
  }
  await model.allocator.wakeUp();
});

test.skipIf(!onEmulator)(
  "sleep() releases the address that a failed malloc() could not release",
  async () => {
    setFaults(`aclrtMallocPhysical:1=${outOfMemory},aclrtReleaseMemAddress:1=${internalError}`);
    expect((await failureOf(() => model.allocator.malloc(1))).code).toBe("OUT_OF_DEVICE_MEMORY");
    setFaults("");
    expectExactAccounting();
    await model.allocator.sleep();
    await model.allocator.wakeUp();
    expect(accounting().reservations).toBe(localNative.snapshot().length);
    expect(localNative.snapshot().every(({ doomed }) => doomed === 0)).toBe(true);
  },
);

test.skipIf(!onEmulator)("malloc() does not wait for the device after free() failed", async () => {
  const extra = model.allocator.malloc(MiB);
  setFaults(`aclrtUnmapMem:1=${internalError}`);
  await failureOf(() => extra.free());
  setFaults("");
  const held = holdDevice();
  // This would never return if it waited for the device, which is released below.
  model.allocator.malloc(MiB);
  held.release();
});

test.skipIf(!onEmulator)("close() releases the rest when it is called again after it failed", async () => {
  setFaults(`aclrtUnmapMem:1=${internalError}`);
  expect((await failureOf(() => model.allocator.close())).call).toBe("aclrtUnmapMem");
  expect(accounting()).toMatchObject({ mappings: 1, physicalHandles: 1, reservations: 1 });
  expect((await failureOf(() => model.allocator.malloc(1))).message).toContain("call close() again");
  setFaults("");
});
