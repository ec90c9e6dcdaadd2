/** Page-locked host memory: allocated before the first copy, prepared, reused, and released by `retain`. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type AllocatorOptions, CaMemAllocator, type DeviceBuffer, loadSafetensors } from "camem";
import { checkpointOf } from "../support/checkpoint.ts";
import {
  accounting,
  callCount,
  codeOf,
  failureOf,
  MiB,
  nothingHeld,
  onEmulator,
  pattern,
  setFaults,
} from "../support/device.ts";

const outOfMemory = 207001;

/** The largest block that is page-locked, and released, at once. */
const slabBytes = 64 * MiB;

let allocator: CaMemAllocator;
let folder: string;

function open(options: AllocatorOptions = {}): void {
  allocator = CaMemAllocator.getInstance(options);
}

function allocate(tag: string, sizeBytes: number): DeviceBuffer {
  const buffer = allocator.malloc(sizeBytes, { tag });
  buffer.write(pattern(sizeBytes, sizeBytes));
  return buffer;
}

/** Waits for work on the shim's thread; the timeout of the test limits it. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(1);
}

const pageLocked = () => allocator.hostUsage().pageLockedBytes;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "camem-host-memory-"));
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await allocator.close();
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
  rmSync(folder, { recursive: true });
});

describe.skipIf(!onEmulator)("page-locking", () => {
  test("sleep() page-locks and copies everything before it unmaps anything", async () => {
    open();
    for (const sizeBytes of [3 * MiB, 70 * MiB, 100]) allocate("weights", sizeBytes);
    allocate("buffers", 5 * MiB);
    setFaults("aclrtUnmapMem:1=507899");
    expect((await failureOf(() => allocator.sleep())).call).toBe("aclrtUnmapMem");
    const pageLockings = callCount("aclrtMallocHost");
    expect(callCount("aclrtMemcpyAsync")).toBeGreaterThan(4);
    setFaults("");
    await allocator.sleep();
    expect(callCount("aclrtMallocHost")).toBe(pageLockings);
  });

  test("sleep() page-locks at most 1.02 times the offloaded bytes plus 64 MiB", async () => {
    open({ spillDir: folder, hostBudget: 40 * MiB });
    for (let index = 0; index < 20; index++) allocate("weights", 3 * MiB + index);
    let peakBytes = 0;
    const onProgress = () => {
      peakBytes = Math.max(peakBytes, accounting().hostAllocationBytes);
    };
    const { offloadedBytes } = await allocator.sleep({ onProgress });
    expect(offloadedBytes).toBe(80 * MiB);
    expect(peakBytes).toBeGreaterThan(0);
    expect(peakBytes).toBeLessThanOrEqual(1.02 * offloadedBytes + 64 * MiB);
    expect(pageLocked()).toBe(40 * MiB);
  });
});

describe("prepare", () => {
  test.skipIf(!onEmulator)("prepare() page-locks all host memory that the sleep needs", async () => {
    open({ spillDir: folder, hostBudget: 80 * MiB });
    for (const sizeBytes of [3 * MiB, 70 * MiB, 30 * MiB]) allocate("weights", sizeBytes);
    const { preparedBytes } = await allocator.prepare();
    // Spilled content is copied through 8 MiB of staging memory.
    expect(preparedBytes).toBe(74 * MiB + 8 * MiB);
    expect(allocator.hostUsage()).toMatchObject({
      pageLockedBytes: preparedBytes,
      freeBytes: preparedBytes,
      preparedBytes,
    });
    setFaults("");
    await allocator.sleep();
    expect(callCount("aclrtMallocHost")).toBe(0);
    expect(allocator.hostUsage().preparedBytes).toBe(0);
    expect(allocator.usage()["weights"]).toMatchObject({ hostBytes: 74 * MiB, spilledBytes: 30 * MiB });
  });

  test("prepare() keeps its memory until a sleep uses it", async () => {
    open({ spillDir: folder, hostBudget: 4 * MiB });
    const adapter = allocate("adapter", 6 * MiB);
    const weights = allocate("weights", 3 * MiB);
    await allocator.sleep({ tags: ["adapter"], offloadTags: ["adapter"] });
    expect(allocator.usage()["adapter"]?.spilledBytes).toBe(6 * MiB);
    await allocator.prepare({ tags: ["weights"] });
    expect(allocator.hostUsage().preparedBytes).toBe(4 * MiB);
    await allocator.wakeUp({ tags: ["adapter"] });
    expect(adapter.read()).toEqual(pattern(6 * MiB, 6 * MiB));
    expect(allocator.hostUsage().preparedBytes).toBe(4 * MiB);
    await allocator.sleep({ tags: ["weights"] });
    expect(allocator.hostUsage()).toMatchObject({ pageLockedBytes: 4 * MiB, freeBytes: 0, preparedBytes: 0 });
    expect(weights.state).toBe("offloaded");
  });

  test("prepare() replaces earlier prepared memory, and releases it at level 0", async () => {
    open();
    const large = allocate("weights", 100 * MiB);
    await allocator.prepare();
    expect(pageLocked()).toBe(100 * MiB);
    large.free();
    allocate("weights", 8 * MiB);
    await allocator.prepare();
    expect(allocator.hostUsage().preparedBytes).toBe(8 * MiB);
    expect(pageLocked()).toBeLessThan(8 * MiB + slabBytes);
    expect(await allocator.prepare({ level: 0 })).toMatchObject({ preparedBytes: 0 });
    expect(pageLocked()).toBe(0);
  });

  test.skipIf(!onEmulator)("prepare() keeps earlier prepared memory when it fails", async () => {
    open();
    allocate("weights", 6 * MiB);
    await allocator.prepare();
    allocate("weights", 200 * MiB);
    setFaults(`aclrtMallocHost:3=${outOfMemory}`);
    const error = await failureOf(() => allocator.prepare());
    expect(error.code).toBe("OUT_OF_HOST_MEMORY");
    expect(error.message).toContain("nothing has changed");
    setFaults("");
    expect(allocator.hostUsage().preparedBytes).toBe(6 * MiB);
    expect(pageLocked()).toBeLessThan(6 * MiB + slabBytes);
  });

  test.skipIf(!onEmulator)("prepare() keeps earlier prepared memory when it is aborted", async () => {
    open();
    allocate("weights", 6 * MiB);
    await allocator.prepare();
    allocate("weights", 640 * MiB);
    const controller = new AbortController();
    const preparing = allocator.prepare({ signal: controller.signal });
    setImmediate(() => controller.abort());
    const outcome = await preparing.then(
      () => "prepared",
      (error) => error.code,
    );
    // The preparation is complete when the abort is too late.
    const expected = outcome === "ABORTED" ? 6 * MiB : 646 * MiB;
    expect(allocator.hostUsage().preparedBytes).toBe(expected);
    expect(pageLocked()).toBeLessThan(expected + slabBytes);
  });

  test("prepare() page-locks nothing when it exceeds the host budget", async () => {
    open({ hostBudget: 6 * MiB });
    allocate("weights", 8 * MiB);
    const error = await failureOf(() => allocator.prepare());
    expect(error.code).toBe("HOST_BUDGET_EXCEEDED");
    expect(error.message).toContain("2 MiB too little");
    expect(pageLocked()).toBe(0);
  });

  test("prepare() rejects when the allocator closes", async () => {
    open();
    allocate("weights", 640 * MiB);
    const preparing = codeOf(() => allocator.prepare());
    await sleep(0);
    await allocator.close();
    expect(await preparing).toBe("CLOSED");
    open();
  });

  test("loadSafetensors() prepares host memory with prepareOnLoad", async () => {
    const path = join(folder, "model.safetensors");
    writeFileSync(path, checkpointOf({ tensor: pattern(5 * MiB, 1) }));
    open({ prepareOnLoad: true });
    await loadSafetensors(path, { allocator });
    await until(() => allocator.hostUsage().preparedBytes === 6 * MiB);
  });
});

describe("retain", () => {
  test('"none", the default, gives everything back', async () => {
    open();
    allocate("weights", 70 * MiB);
    await allocator.sleep();
    expect(pageLocked()).toBe(70 * MiB);
    await allocator.wakeUp();
    expect(pageLocked()).toBe(0);
  });

  test.skipIf(!onEmulator)('"all" uses memory again, whatever sizes come, and never takes more', async () => {
    open({ retain: "all" });
    const totalBytes = 96 * MiB;
    const mixes = [
      Array.from({ length: 48 }, () => 2 * MiB),
      [96 * MiB],
      [2, 30, 4, 26, 6, 22, 6].map((size) => size * MiB),
      [70 * MiB, ...Array.from({ length: 13 }, () => 2 * MiB)],
      [30 * MiB, 34 * MiB, 32 * MiB - 1],
    ];
    for (let cycle = 0; cycle < 40; cycle++) {
      const sizes = mixes[cycle % mixes.length] ?? [];
      const buffers = sizes.map((sizeBytes, index) => allocate(index % 3 ? "weights" : "buffers", sizeBytes));
      if (cycle === 1) setFaults("");
      await allocator.sleep();
      const asleep = allocator.usage();
      expect((asleep["weights"]?.hostBytes ?? 0) + (asleep["buffers"]?.hostBytes ?? 0)).toBe(totalBytes);
      expect(pageLocked()).toBe(totalBytes);
      // Frees in another order than allocated, some asleep and some awake.
      for (const buffer of buffers.filter((_, index) => index % 2)) buffer.free();
      await allocator.wakeUp();
      for (const buffer of buffers.filter((_, index) => index % 2 === 0)) {
        expect(Buffer.compare(buffer.read(), pattern(buffer.sizeBytes, buffer.sizeBytes))).toBe(0);
        buffer.free();
      }
      expect(allocator.hostUsage()).toMatchObject({
        pageLockedBytes: totalBytes,
        freeBytes: totalBytes,
        preparedBytes: 0,
      });
    }
    expect(callCount("aclrtMallocHost")).toBe(0);
    expect(callCount("aclrtFreeHost")).toBe(0);
  });

  test("retain limits the host memory that is kept", async () => {
    open({ retain: "16MiB" });
    for (const tag of ["a", "b", "c", "d"]) allocate(tag, 6 * MiB);
    await allocator.sleep({ offloadTags: ["a", "b", "c", "d"] });
    expect(pageLocked()).toBe(24 * MiB);
    await allocator.wakeUp();
    expect(pageLocked()).toBe(12 * MiB);
  });

  test("retain with idleMs releases kept memory after the idle time, but not prepared memory", async () => {
    open({ retain: { idleMs: 20 } });
    const tags = { offloadTags: ["weights", "adapter"] };
    allocate("weights", 6 * MiB);
    allocate("adapter", 10 * MiB);
    await allocator.sleep(tags);
    await allocator.wakeUp();
    await until(() => pageLocked() === 0);
    await allocator.sleep(tags);
    await allocator.wakeUp();
    await allocator.prepare();
    await until(() => pageLocked() < 16 * MiB);
    await sleep(100);
    expect(allocator.hostUsage().preparedBytes).toBe(6 * MiB);
  });
});
