/** Backups: reading, checksums with verify, and a lost device. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { CaMemAllocator, type DeviceBuffer } from "camem";
import { localNative } from "../../src/ffi/index.ts";
import {
  codeOf,
  failureOf,
  granulesBetween,
  MiB,
  onEmulator,
  pattern,
  setFaults,
} from "../support/device.ts";
import { memoryAt } from "../support/runtime.ts";

let allocator: CaMemAllocator;
let weights: DeviceBuffer;
const content = pattern(3 * MiB, 9);

beforeEach(() => {
  allocator = CaMemAllocator.getInstance({ verify: true });
  weights = allocator.malloc(content.length, { tag: "weights" });
  weights.write(content);
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await allocator.close();
});

/** A view of the page-locked backup, for a stray write of the host. */
function backupMemory(): Uint8Array {
  const [segment] = localNative.snapshot();
  if (segment === undefined) throw new Error("there is no segment");
  return memoryAt(segment.hostAddress, segment.hostBytes);
}

function flip(memory: Uint8Array, at: number): void {
  memory[at] = (memory[at] ?? 0) ^ 255;
}

describe("with verify", () => {
  test.each([0, content.length - 1])(
    "wakeUp() reports a backup with byte %i flipped and maps nothing",
    async (at) => {
      await allocator.sleep();
      const memory = backupMemory();
      memory[at] = (memory[at] ?? 0) ^ 1;
      const { freeBytes } = allocator.memGetInfo();
      const error = await failureOf(() => allocator.wakeUp());
      expect(error.code).toBe("BACKUP_CORRUPT");
      expect(error.address).toBe(weights.ptr);
      expect(error.message).toContain("nothing has changed");
      expect(weights.state).toBe("offloaded");
      expect(granulesBetween(allocator.memGetInfo().freeBytes, freeBytes)).toBe(0);
      memory[at] = (memory[at] ?? 0) ^ 1;
      await allocator.wakeUp();
      expect(weights.read()).toEqual(content);
    },
  );

  test("sleep({ level: 2 }) drops a corrupt backup, and its memory is usable again", async () => {
    await allocator.sleep();
    flip(backupMemory(), 5);
    expect(await codeOf(() => allocator.wakeUp())).toBe("BACKUP_CORRUPT");
    await allocator.sleep({ level: 2 });
    await allocator.wakeUp();
    weights.write(content);
    expect(weights.read()).toEqual(content);
  });

  test("sleep() takes a new checksum each time", async () => {
    for (const value of [1, 2]) {
      weights.fill(value);
      await allocator.sleep();
      await allocator.wakeUp();
    }
    expect(weights.read(0, 1)).toEqual(new Uint8Array([2]));
  });
});

test("wakeUp() does not compare checksums without verify", async () => {
  await allocator.close();
  allocator = CaMemAllocator.getInstance();
  weights = allocator.malloc(content.length, { tag: "weights" });
  weights.write(content);
  await allocator.sleep();
  flip(backupMemory(), 0);
  await allocator.wakeUp();
  expect(weights.read(1)).toEqual(content.subarray(1));
});

test("backup() returns backups only while memory is offloaded", async () => {
  expect(allocator.backup("weights")).toEqual([]);
  await allocator.sleep();
  const [backup] = allocator.backup("weights");
  expect(backup?.ptr).toBe(weights.ptr);
  expect(backup?.read(0, content.length)).toEqual(content);
  expect(backup?.read(7, 3)).toEqual(content.slice(7, 10));
  // A segment is larger than what was asked for.
  backupMemory().fill(5, content.length);
  expect(backup?.read(content.length - 1)).toEqual(
    new Uint8Array([...content.slice(-1), ...new Uint8Array(MiB)]),
  );
  expect(await codeOf(() => backup?.read(4 * MiB - 1, 2))).toBe("OUT_OF_BOUNDS");
  expect(await codeOf(() => allocator.backup("wieghts"))).toBe("UNKNOWN_TAG");
  await allocator.wakeUp();
  expect(await codeOf(() => backup?.read(0, 1))).toBe("NO_BACKUP");
  weights.free();
  expect(await codeOf(() => backup?.read(0, 1))).toBe("BUFFER_FREED");
});

test("backup() returns the kept backups of immutable memory that is awake", async () => {
  allocator.defineTag("weights", { immutable: true });
  await allocator.sleep();
  await allocator.wakeUp();
  const [backup] = allocator.backup("weights");
  expect(backup?.read(0, content.length)).toEqual(content);
  allocator.markDirty("weights");
  expect(allocator.backup("weights")).toEqual([]);
  expect(await codeOf(() => backup?.read(0, 1))).toBe("NO_BACKUP");
});

test.skipIf(!onEmulator).each(["aclrtUnmapMem:1+=507899", "aclrtUnmapMem:2+=507899,aclrtMapMem:1+=507899"])(
  "kept backups stay readable when a sleep fails with %s",
  async (faults) => {
    allocator.malloc(1, { tag: "buffers" });
    allocator.defineTag("weights", { immutable: true });
    await allocator.sleep();
    await allocator.wakeUp();
    setFaults(faults);
    await codeOf(() => allocator.sleep());
    setFaults("");
    expect(allocator.backup("weights")[0]?.read(0, content.length)).toEqual(content);
  },
);

describe.skipIf(!onEmulator).each([507010, 507053, 507054, 507056])("with the device lost (%i)", (code) => {
  test("sleep() and wakeUp() reject and backups stay readable when the device is lost", async () => {
    setFaults(`*:1+=${code}`);
    expect(await codeOf(() => allocator.sleep())).toBe("DEVICE_LOST");
    setFaults("");
    expect(weights.state).toBe("mapped");
    await allocator.sleep();
    setFaults(`*:1+=${code}`);
    expect(await codeOf(() => allocator.wakeUp())).toBe("DEVICE_LOST");
    expect(allocator.backup("weights")[0]?.read(0, content.length)).toEqual(content);
    setFaults("");
  });

  test.each([
    "aclrtMemcpyAsync",
    "aclrtSynchronizeStream",
    "aclrtUnmapMem",
    "aclrtMallocPhysical",
    "aclrtMapMem",
  ])("backups stay readable when the device is lost from %s on", async (call) => {
    const lose = async (transition: () => Promise<unknown>) => {
      setFaults(`${call}:1+=${code}`);
      const outcome = await transition().then(
        () => "done",
        (error) => error.code,
      );
      setFaults("");
      expect(["done", "DEVICE_LOST"]).toContain(outcome);
    };
    await lose(() => allocator.sleep());
    await allocator.wakeUp();
    expect(weights.read()).toEqual(content);
    await allocator.sleep();
    await lose(() => allocator.wakeUp());
    await allocator.wakeUp();
    expect(weights.read()).toEqual(content);
  });
});
