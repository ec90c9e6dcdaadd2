/** AscendCL refuses to page-lock: backups go to ordinary memory or the spill folder, as the options say, or nothing changes. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type AllocatorOptions, CaMemAllocator, type DeviceBuffer } from "camem";
import { hostMemoryRemedy } from "../../src/transition/page-locking.ts";
import {
  accounting,
  callCount,
  failureOf,
  MiB,
  nothingHeld,
  onEmulator,
  pattern,
  setFaults,
} from "../support/device.ts";

const stagingBytes = 8 * MiB;
/** Page-locked by three calls: 22 MiB for weights and 12 MiB for buffers on device 0, and 4 MiB for weights on device 1. */
const layout = [
  { sizeBytes: 14 * MiB, tag: "weights", device: 0 },
  { sizeBytes: 8 * MiB - 5, tag: "weights", device: 0 },
  { sizeBytes: 12 * MiB, tag: "buffers", device: 0 },
  { sizeBytes: 3 * MiB, tag: "weights", device: 1 },
];
const contentBytes = 38 * MiB;

let allocator: CaMemAllocator;
let buffers: DeviceBuffer[];
let folder: string;

function open(options: AllocatorOptions = {}): void {
  allocator = CaMemAllocator.getInstance(options);
  buffers = layout.map(({ sizeBytes, tag, device }, index) => {
    const buffer = allocator.malloc(sizeBytes, { tag, device });
    buffer.write(pattern(sizeBytes, index));
    return buffer;
  });
}

function expectContents(): void {
  for (const [index, buffer] of buffers.entries())
    expect(Buffer.compare(buffer.read(), pattern(buffer.sizeBytes, index))).toBe(0);
}

function spillFiles(): string[] {
  return readdirSync("/proc/self/fd").filter((name) => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`).startsWith(folder);
    } catch {
      return false; // that of the listing itself
    }
  });
}

/** Sums over all tags. */
function backups() {
  const tags = Object.values(allocator.usage());
  const sum = (property: "hostBytes" | "pageableBytes" | "spilledBytes") =>
    tags.reduce((total, usage) => total + usage[property], 0);
  return { host: sum("hostBytes"), pageable: sum("pageableBytes"), spilled: sum("spilledBytes") };
}

const refusedFrom = (call: number) => `aclrtMallocHost:${call}+=207001`;

async function sleepWith(faults: string) {
  setFaults(faults);
  try {
    return await allocator.sleep();
  } finally {
    setFaults("");
  }
}

async function wakeWith(faults: string) {
  setFaults(faults);
  try {
    return await allocator.wakeUp();
  } finally {
    setFaults("");
  }
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "camem-page-locking-"));
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await allocator.close();
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
  expect(spillFiles()).toEqual([]);
  rmSync(folder, { recursive: true });
});

describe.skipIf(!onEmulator)("when AscendCL refuses to page-lock", () => {
  test("sleep() changes nothing and names the total and the options without pageable and spillDir", async () => {
    open();
    for (const call of [1, 2, 3]) {
      const error = await failureOf(() => sleepWith(refusedFrom(call)));
      expect(error).toMatchObject({ code: "OUT_OF_HOST_MEMORY", call: "aclrtMallocHost", aclCode: 207001 });
      for (const part of [
        "the sleep needs 38 MiB of host memory in all",
        "CAMEM_PAGEABLE",
        "CAMEM_SPILL_DIR",
        "nothing has changed",
      ])
        expect(error.message).toContain(part);
      expect(allocator.isSleeping).toBe(false);
      expect(allocator.hostUsage().pageLockedBytes).toBe(0);
      expectContents();
    }
  });

  const choices: [string, () => AllocatorOptions, "pageable" | "spilled"][] = [
    ["pageable", () => ({ pageable: true }), "pageable"],
    ["spillDir", () => ({ spillDir: folder }), "spilled"],
    ["pageable and spillDir", () => ({ pageable: true, spillDir: folder }), "pageable"],
  ];

  describe.each(choices)("with %s", (_, options, place) => {
    test.each([
      ["with", true],
      ["without", false],
    ])("sleep() uses what was granted and keeps the rest elsewhere, %s checksums", async (__, verify) => {
      open({ ...options(), verify });
      // The first call grants 22 MiB: 8 MiB for staging on each device, and the rest for backups that fit into it.
      const report = await sleepWith(refusedFrom(2));
      const { host, ...elsewhere } = backups();
      expect(host).toBe(4 * MiB);
      expect(host + elsewhere[place]).toBe(contentBytes);
      expect(report).toMatchObject({
        copiedBytes: contentBytes,
        pageableBytes: elsewhere.pageable,
        spilledBytes: elsewhere.spilled,
      });
      expect(allocator.hostUsage()).toMatchObject({
        pageLockedBytes: 4 * MiB + 2 * stagingBytes + 2 * MiB,
        stagingBytes: 2 * stagingBytes,
        pageableBytes: elsewhere.pageable,
      });
      expect(spillFiles()).toHaveLength(place === "spilled" ? 1 : 0);
      expect((await wakeWith("")).restoredBytes).toBe(contentBytes);
      expectContents();
      expect(backups()).toEqual({ host: 0, pageable: 0, spilled: 0 });
      expect(allocator.hostUsage()).toMatchObject({ pageLockedBytes: 0, stagingBytes: 0, pageableBytes: 0 });
    });

    test("wakeUp() needs no page-locked memory anew after such a sleep", async () => {
      open(options());
      await sleepWith(refusedFrom(2));
      for (let cycle = 0; cycle < 2; cycle++) {
        await wakeWith(refusedFrom(1));
        expectContents();
        expect(allocator.hostUsage().pageLockedBytes).toBe(0);
        await sleepWith(refusedFrom(2));
      }
      for (const tag of ["weights", "buffers"]) await allocator.wakeUp({ tags: [tag] });
      expectContents();
    });

    test("sleep() changes nothing when not even staging can be page-locked", async () => {
      open(options());
      const error = await failureOf(() => sleepWith(refusedFrom(1)));
      expect(error).toMatchObject({
        code: "OUT_OF_HOST_MEMORY",
        call: "aclrtMallocHost",
        sizeBytes: stagingBytes,
      });
      expect(error.message).toContain("need 8 MiB of page-locked memory on each device");
      expect(error.message).toContain("nothing has changed");
      expect(allocator.isSleeping).toBe(false);
      expect(allocator.hostUsage()).toMatchObject({ pageLockedBytes: 0, pageableBytes: 0 });
      expect(spillFiles()).toEqual([]);
      expectContents();
    });

    test("sleep() is undone when a later call fails", async () => {
      open(options());
      for (const fault of [
        "aclrtMemcpyAsync:7=507899",
        "aclrtSynchronizeStream:3=507899",
        "aclrtUnmapMem:2=507899",
      ]) {
        const error = await failureOf(() => sleepWith(`${refusedFrom(2)},${fault}`));
        expect(error.code).toBe("ACL_CALL_FAILED");
        expect(allocator.isSleeping).toBe(false);
        expect(backups()).toEqual({ host: 0, pageable: 0, spilled: 0 });
        expect(allocator.hostUsage()).toMatchObject({ pageLockedBytes: 0, pageableBytes: 0 });
        expectContents();
      }
    });

    test("sleep() rejects when the device is lost instead of looking elsewhere", async () => {
      open(options());
      const error = await failureOf(() => sleepWith("aclrtMallocHost:2=507010"));
      expect(error.code).toBe("DEVICE_LOST");
    });

    test("prepare() keeps what was granted", async () => {
      open(options());
      allocator.malloc(40 * MiB, { tag: "weights" });
      setFaults(refusedFrom(2));
      // As much as one thread asks for at a time.
      const { preparedBytes } = await allocator.prepare();
      expect(preparedBytes).toBeGreaterThan(16 * MiB);
      expect(preparedBytes).toBeLessThanOrEqual(64 * MiB);
      expect(allocator.hostUsage()).toMatchObject({ pageLockedBytes: preparedBytes, pageableBytes: 0 });
      setFaults(refusedFrom(1));
      await allocator.sleep();
      expect(allocator.hostUsage().preparedBytes).toBe(0);
      await allocator.wakeUp();
      expectContents();
    });
  });

  test.each([
    ["mmap", "rejects"],
    ["madvise", "rejects"],
    ["mmap", "spills"],
    ["madvise", "spills"],
  ])("sleep() loses nothing when the kernel refuses ordinary memory by %s, and %s", async (call, outcome) => {
    open();
    const program = join(import.meta.dirname, "refused-memory-process.ts");
    const child = Bun.spawn([process.execPath, program, call, outcome], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    const errors = await new Response(child.stderr).text();
    expect(await child.exited, errors).toBe(0);
  });

  test("sleep() uses page-locked memory again once it is granted", async () => {
    open({ pageable: true });
    await sleepWith(refusedFrom(2));
    await allocator.wakeUp();
    expect(await sleepWith("")).toMatchObject({ pageableBytes: 0, spilledBytes: 0 });
    expect(backups()).toEqual({ host: contentBytes, pageable: 0, spilled: 0 });
    expect(allocator.hostUsage().pageLockedBytes).toBe(contentBytes);
  });

  test("backups in ordinary memory count against the host budget, can be read and are kept where content is immutable", async () => {
    open({ pageable: true, hostBudget: 42 * MiB });
    allocator.defineTag("weights", { immutable: true });
    await sleepWith(refusedFrom(2));
    expect(allocator.plan("sleep").host.freeBytes).toBe(4 * MiB);
    const [first] = allocator.backup("weights");
    expect(first?.read(9, 70)).toEqual(pattern(14 * MiB, 0).slice(9, 79));
    await allocator.wakeUp();
    const kept = backups();
    expect(kept.host + kept.pageable).toBe(26 * MiB);
    expect(kept.pageable).toBeGreaterThan(0);
    setFaults(refusedFrom(1));
    expect(await allocator.sleep({ tags: ["weights"] })).toMatchObject({ copiedBytes: 0 });
    await allocator.wakeUp();
    expectContents();
    allocator.markDirty("weights");
    expect(backups()).toEqual({ host: 0, pageable: 0, spilled: 0 });
  });

  test("free() of the last backup in ordinary memory gives the staging back", async () => {
    open({ pageable: true });
    await sleepWith(refusedFrom(2));
    for (const buffer of buffers) buffer.free();
    while (allocator.hostUsage().pageLockedBytes > 0) await sleep(1);
    expect(allocator.hostUsage().pageableBytes).toBe(0);
  });

  test("wakeUp() copies ordinary memory in the pieces that go through staging", async () => {
    open({ pageable: true });
    await sleepWith(refusedFrom(2));
    setFaults("");
    await allocator.wakeUp();
    expect(callCount("aclrtMemcpyAsync")).toBeGreaterThanOrEqual((contentBytes - 4 * MiB) / MiB);
    expectContents();
  });
});

test("hostMemoryRemedy() names ulimit -l only where it applies", () => {
  const failure = { call: "aclrtMallocHost", aclCode: 207001, address: 0, sizeBytes: 1, message: "" };
  const options = { pageable: false, spillDir: null };
  const remedy = (isExempt: boolean) =>
    hostMemoryRemedy(
      failure,
      { operation: "sleep", neededBytes: 4, stagingBytes, lockLimit: { limitBytes: 8 * MiB, isExempt } },
      options,
    );
  expect(remedy(false)).toContain("(ulimit -l is 8 MiB)");
  expect(remedy(true)).not.toContain("ulimit");
  allocator = CaMemAllocator.getInstance();
});
