/** Buffers that are freed while their device is busy: nothing waits on the event loop. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator } from "camem";
import {
  accounting,
  callCount,
  codeOf,
  holdDevice,
  MiB,
  nothingHeld,
  onEmulator,
  pattern,
  setFaults,
  wholeGranules,
} from "../support/device.ts";

let allocator: CaMemAllocator;
let device: ReturnType<typeof holdDevice> | undefined;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
});

function hold(): void {
  device = holdDevice();
}

function letGo(): void {
  device?.release();
  device = undefined;
}

afterEach(async () => {
  if (onEmulator) setFaults("");
  letGo();
  await allocator.close();
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
});

const freeBytes = () => allocator.memGetInfo().freeBytes;

/** Waits until the device has this much free memory. */
async function untilFree(bytes: number): Promise<void> {
  const deadlineMs = performance.now() + 10_000;
  while (freeBytes() < bytes && performance.now() < deadlineMs) await sleep(1);
  expect(freeBytes()).toBeGreaterThanOrEqual(bytes);
}

test("free() returns while the device is busy, and the memory is released once it is not", async () => {
  const buffer = allocator.malloc(8 * MiB, { tag: "weights" });
  const pool = allocator.memoryPool("kv_cache").malloc(1000);
  hold();
  const before = freeBytes();
  buffer.free();
  pool.free();
  expect([buffer.state, pool.state]).toEqual(["freed", "freed"]);
  expect(allocator.usage()).not.toHaveProperty("weights");
  expect(freeBytes()).toBe(before);
  letGo();
  await untilFree(before + 8 * MiB);
});

test("free() gives memory back at once when the device is idle", () => {
  const buffer = allocator.malloc(8 * MiB);
  const before = freeBytes();
  buffer.free();
  expect(freeBytes()).toBeGreaterThanOrEqual(before + 8 * MiB);
});

test.skipIf(!onEmulator)("free() of many buffers waits for a busy device once", async () => {
  const buffers = Array.from({ length: 60 }, () => allocator.malloc(2 * MiB));
  hold();
  setFaults("");
  for (const buffer of buffers) buffer.free();
  // One wait of its own; the thread that releases waits in pieces of 50 ms.
  expect(callCount("aclrtSynchronizeDeviceWithTimeout")).toBeLessThan(40);
});

test("malloc() has the memory that was freed while the device was busy, once it is not", async () => {
  const largest = wholeGranules(freeBytes()) - 8 * MiB;
  const scratch = allocator.malloc(largest);
  hold();
  scratch.free();
  expect(await codeOf(() => allocator.malloc(largest))).toBe("OUT_OF_DEVICE_MEMORY");
  letGo();
  allocator.malloc(largest).free();
});

test("wakeUp() waits for memory that was freed while the device was busy", async () => {
  const weights = allocator.malloc(8 * MiB, { tag: "weights" });
  weights.write(pattern(8 * MiB, 1));
  await allocator.sleep();
  const scratch = allocator.malloc(wholeGranules(freeBytes()) - 4 * MiB, { tag: "sleep_persistent" });
  hold();
  scratch.free();
  const wake = allocator.wakeUp();
  await sleep(20);
  expect(weights.state).toBe("offloaded");
  letGo();
  await wake;
  expect(weights.read()).toEqual(pattern(8 * MiB, 1));
});

test("wakeUp() that waits for freed memory can be aborted", async () => {
  allocator.malloc(8 * MiB, { tag: "weights" });
  await allocator.sleep();
  const scratch = allocator.malloc(wholeGranules(freeBytes()) - 4 * MiB, { tag: "sleep_persistent" });
  hold();
  scratch.free();
  const controller = new AbortController();
  const wake = codeOf(() => allocator.wakeUp({ signal: controller.signal }));
  await sleep(5);
  controller.abort();
  expect(await wake).toBe("ABORTED");
});

test("sleep() and wakeUp() succeed while freed memory waits for the device", async () => {
  const weights = allocator.malloc(4 * MiB, { tag: "weights" });
  weights.write(pattern(4 * MiB, 3));
  const buffer = allocator.malloc(4 * MiB, { tag: "kv_cache" });
  hold();
  buffer.free();
  const sleeping = allocator.sleep();
  await sleep(10);
  letGo();
  await sleeping;
  hold();
  // A wake-up of discarded memory does not wait for the device.
  allocator.malloc(2 * MiB).free();
  await allocator.wakeUp();
  letGo();
  expect(weights.read()).toEqual(pattern(4 * MiB, 3));
});

test.skipIf(!onEmulator).each(["aclrtUnmapMem:1=507899", "aclrtFreePhysical:1=507899"])(
  "free() on a busy device is retried by the next transition when the release fails with %s",
  async (fault) => {
    const buffer = allocator.malloc(4 * MiB, { tag: "kv_cache" });
    allocator.malloc(2 * MiB, { tag: "weights" });
    hold();
    const before = freeBytes();
    buffer.free();
    setFaults(fault);
    letGo();
    const call = fault.split(":")[0] ?? "";
    while (callCount(call) === 0) await sleep(1);
    setFaults("");
    await allocator.sleep();
    await allocator.wakeUp();
    await untilFree(before + 4 * MiB);
  },
);

test("close() releases memory that was freed while the device was busy", async () => {
  const buffer = allocator.malloc(4 * MiB);
  hold();
  buffer.free();
  letGo();
  await allocator.close();
});
