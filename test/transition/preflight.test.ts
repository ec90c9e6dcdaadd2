/** A transition checks the memory it needs before it moves anything. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { CaMemAllocator, type DeviceBuffer, formatSize } from "camem";
import { localNative } from "../../src/ffi/index.ts";
import {
  codeOf,
  failureOf,
  granulesBetween,
  MiB,
  onEmulator,
  pattern,
  setFaults,
  wholeGranules,
} from "../support/device.ts";

let allocator: CaMemAllocator;
let weights: DeviceBuffer;
const content = pattern(3 * MiB, 3);
const budget = { sizeBytes: 6 * MiB, source: "option", path: null } as const;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance({ hostBudget: 6 * MiB });
  weights = allocator.malloc(content.length, { tag: "weights" });
  weights.write(content);
  allocator.malloc(5 * MiB, { tag: "kv_cache" });
});

afterEach(() => allocator.close());

/** Takes device memory, as another user of the device does, until `leftBytes` and part of a granule are free. */
function takeAllBut(leftBytes: number) {
  const { freeBytes } = allocator.memGetInfo();
  return allocator.malloc(wholeGranules(freeBytes) - leftBytes, { tag: "sleep_persistent" });
}

test("plan() reports bytes by tag, free memory and whether it fits, and moves nothing", async () => {
  expect(allocator.plan("sleep", { level: 1 })).toEqual({
    tags: {
      weights: { offloadBytes: 4 * MiB, discardBytes: 0, restoreBytes: 0, remapBytes: 0 },
      kv_cache: { offloadBytes: 0, discardBytes: 6 * MiB, restoreBytes: 0, remapBytes: 0 },
    },
    devices: [],
    freed: [{ device: 0, freedBytes: 10 * MiB }],
    host: { neededBytes: 4 * MiB, freeBytes: 6 * MiB, budget },
    spill: null,
    fits: true,
  });
  await allocator.sleep();
  const { freeBytes } = allocator.memGetInfo();
  expect(allocator.plan("wake")).toEqual({
    tags: {
      weights: { offloadBytes: 0, discardBytes: 0, restoreBytes: 4 * MiB, remapBytes: 0 },
      kv_cache: { offloadBytes: 0, discardBytes: 0, restoreBytes: 0, remapBytes: 6 * MiB },
    },
    devices: [{ device: 0, neededBytes: 10 * MiB, freeBytes }],
    freed: [],
    host: { neededBytes: 0, freeBytes: 2 * MiB, budget },
    spill: null,
    fits: true,
  });
  expect(allocator.plan("wake", { tags: ["weights"] }).devices[0]?.neededBytes).toBe(4 * MiB);
  expect(weights.state).toBe("offloaded");
});

test("plan() reports the memory that a sleep gives back by device", async () => {
  allocator.malloc(2 * MiB, { tag: "weights", device: 1 });
  const freed = () => allocator.plan("sleep", { level: 1, tags: ["weights"] }).freed;
  expect(freed()).toEqual([
    { device: 0, freedBytes: 4 * MiB },
    { device: 1, freedBytes: 2 * MiB },
  ]);
  await allocator.sleep();
  expect(freed()).toEqual([]);
  expect(allocator.plan("sleep", { level: 2, tags: ["weights"] })).toMatchObject({
    tags: { weights: { discardBytes: 6 * MiB } },
    freed: [],
  });
});

test.if(onEmulator)("plan() reports memory that an earlier sleep could not give back", async () => {
  setFaults("aclrtFreePhysical:1=500000");
  const error = await failureOf(() => allocator.sleep({ tags: ["kv_cache"] }));
  setFaults("");
  expect(error.transitionComplete).toBe(true);
  expect(allocator.plan("sleep", { tags: ["kv_cache"] }).freed).toEqual([{ device: 0, freedBytes: 6 * MiB }]);
  await allocator.sleep({ tags: ["kv_cache"] });
  expect(allocator.plan("sleep", { tags: ["kv_cache"] }).freed).toEqual([]);
});

test("wakeUp() takes no memory when it cannot fit", async () => {
  await allocator.sleep();
  const taken = takeAllBut(8 * MiB);
  const { freeBytes } = allocator.memGetInfo();
  expect(granulesBetween(freeBytes, 8 * MiB)).toBe(0);
  expect(allocator.plan("wake")).toMatchObject({ fits: false });
  const error = await failureOf(() => allocator.wakeUp());
  expect(error.code).toBe("OUT_OF_DEVICE_MEMORY");
  expect(error.message).toContain(`needs 10 MiB on device 0, where ${formatSize(freeBytes)} are free`);
  expect(error.sizeBytes).toBe(10 * MiB - freeBytes);
  expect(error.call).toBeUndefined();
  expect(granulesBetween(allocator.memGetInfo().freeBytes, freeBytes)).toBe(0);
  await allocator.wakeUp({ tags: ["weights"] });
  expect(weights.read()).toEqual(content);
  taken.free();
  expect(await allocator.wakeUp()).toMatchObject({ remappedBytes: 6 * MiB, stillAsleep: [] });
});

test("sleep() copies nothing and names the shortfall when it exceeds the host budget", async () => {
  const more = allocator.malloc(4 * MiB, { tag: "weights" });
  expect(allocator.plan("sleep")).toMatchObject({
    fits: false,
    host: { neededBytes: 8 * MiB, freeBytes: 6 * MiB },
  });
  const phases: string[] = [];
  const error = await failureOf(() => allocator.sleep({ onProgress: ({ phase }) => phases.push(phase) }));
  expect(error.code).toBe("HOST_BUDGET_EXCEEDED");
  expect(error.message).toContain("2 MiB too little");
  expect(error.message).toContain("CAMEM_HOST_BUDGET");
  expect(phases).toEqual([]);
  expect(allocator.isSleeping).toBe(false);
  more.free();
  await allocator.sleep();
});

test("host budget counts memory until it is released", async () => {
  await allocator.sleep();
  const more = allocator.malloc(4 * MiB, { tag: "weights" });
  expect(await codeOf(() => allocator.sleep())).toBe("HOST_BUDGET_EXCEEDED");
  await allocator.sleep({ level: 2 });
  expect(more.state).toBe("discarded");
  expect(allocator.plan("sleep").host.freeBytes).toBe(6 * MiB);
});

test("plan() refuses an unknown operation", async () => {
  expect(await codeOf(() => allocator.plan("nap" as "wake"))).toBe("INVALID_ARGUMENT");
  expect(await codeOf(() => allocator.plan("wake", { tags: ["kv_cash"] }))).toBe("UNKNOWN_TAG");
});

test("getInstance() refuses a missing default device and leaves nothing open", async () => {
  const { deviceCount } = localNative.runtimeInfo();
  await allocator.close();
  const open = () => CaMemAllocator.getInstance({ device: deviceCount });
  expect((await failureOf(open)).message).toContain(`the device (CAMEM_DEVICE) is ${deviceCount}; there `);
  expect(await codeOf(open)).toBe("UNKNOWN_DEVICE");
  allocator = CaMemAllocator.getInstance({ device: deviceCount - 1 });
  expect(allocator.malloc(MiB).device).toBe(deviceCount - 1);
});
