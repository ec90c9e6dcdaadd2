/** Wake-ups that zero memory whose content was lost. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { CaMemAllocator, type DeviceBuffer } from "camem";
import { callCount, failureOf, MiB, onEmulator, pattern, setFaults } from "../support/device.ts";

const sizeBytes = 2 * MiB + 1000;
let allocator: CaMemAllocator;
let cache: DeviceBuffer;
let weights: DeviceBuffer;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  cache = allocator.malloc(sizeBytes, { tag: "kv_cache" });
  weights = allocator.malloc(sizeBytes, { tag: "weights" });
  cache.write(pattern(sizeBytes, 1));
  weights.write(pattern(sizeBytes, 2));
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await allocator.close();
});

const zeros = new Uint8Array(sizeBytes);
const isZero = (buffer: DeviceBuffer) => Buffer.compare(buffer.read(), zeros) === 0;

test("wakeUp() zeroes what was lost when the policy of its tag says so", async () => {
  allocator.defineTag("kv_cache", { zero: true });
  await allocator.sleep();
  expect(await allocator.wakeUp()).toMatchObject({
    remappedBytes: 4 * MiB,
    zeroedBytes: 4 * MiB,
    lostTags: ["kv_cache"],
  });
  expect(isZero(cache)).toBe(true);
  expect(weights.read()).toEqual(pattern(sizeBytes, 2));
});

test("wakeUp({ zero: true }) zeroes everything that was lost", async () => {
  await allocator.sleep({ level: 2 });
  expect(await allocator.wakeUp({ zero: true })).toMatchObject({ zeroedBytes: 8 * MiB });
  expect([cache, weights].map(isZero)).toEqual([true, true]);
});

test("wakeUp({ zero: false }) overrides the policy of the tag", async () => {
  allocator.defineTag("kv_cache", { zero: true });
  await allocator.sleep();
  if (onEmulator) setFaults("");
  expect(await allocator.wakeUp({ zero: false })).toMatchObject({ remappedBytes: 4 * MiB, zeroedBytes: 0 });
  if (onEmulator) expect(callCount("aclrtMemsetAsync")).toBe(0);
});

test("defineTag() keeps zero when other properties of the policy change", async () => {
  allocator.defineTag("kv_cache", { zero: true });
  allocator.defineTag("kv_cache", { 1: "offload", immutable: false });
  await allocator.sleep({ level: 2 });
  expect(await allocator.wakeUp()).toMatchObject({ zeroedBytes: 4 * MiB });
  allocator.defineTag("kv_cache", { zero: false });
  await allocator.sleep({ level: 2 });
  expect(await allocator.wakeUp()).toMatchObject({ zeroedBytes: 0 });
});

test.skipIf(!onEmulator).each([
  ["aclrtMemsetAsync:1=507899", "aclrtMemsetAsync"],
  ["aclrtSynchronizeStream:1=507899", "aclrtSynchronizeStream"],
  ["aclrtMemsetAsync.task:1=507899", "aclrtSynchronizeStream"],
])("wakeUp() changes nothing when %s fails, and zeroes when it is repeated", async (fault, call) => {
  await allocator.sleep({ level: 2 });
  const freeBytes = () => allocator.memGetInfo().freeBytes;
  const before = freeBytes();
  setFaults(fault);
  const failure = await failureOf(() => allocator.wakeUp({ zero: true }));
  setFaults("");
  expect(failure).toMatchObject({ call, transitionComplete: false });
  expect(cache.state).toBe("discarded");
  expect(freeBytes()).toBe(before);
  await allocator.wakeUp({ zero: true });
  expect([cache, weights].map(isZero)).toEqual([true, true]);
});

test("wakeUp() waits for the device after each 256 MiB that it zeroes", async () => {
  for (let index = 0; index < 5; index++) allocator.malloc(128 * MiB, { tag: "kv_cache" });
  await allocator.sleep({ level: 2 });
  if (onEmulator) setFaults("");
  await allocator.wakeUp({ zero: true });
  if (onEmulator) expect(callCount("aclrtSynchronizeStream")).toBe(3);
});
