/** Backups beyond the host budget spill to unlinked files, deleted when the process exits. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readlinkSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AllocatorOptions, CaMemAllocator, type DeviceBuffer, type TransitionProgress } from "camem";
import { localNative } from "../../src/ffi/index.ts";
import { accounting, codeOf, failureOf, MiB, nothingHeld, onEmulator, pattern } from "../support/device.ts";
import { outcomeOf } from "../support/program.ts";

let allocator: CaMemAllocator;
let folder: string;
let buffers: DeviceBuffer[];

const sizes = [3 * MiB, 40 * MiB, 100];

function open(options: AllocatorOptions = {}): void {
  allocator = CaMemAllocator.getInstance({ spillDir: folder, hostBudget: 0, ...options });
  buffers = sizes.map((sizeBytes, index) => {
    const buffer = allocator.malloc(sizeBytes, { tag: index === 1 ? "buffers" : "weights" });
    buffer.write(pattern(sizeBytes, index));
    return buffer;
  });
}

function expectContents(): void {
  for (const [index, buffer] of buffers.entries())
    expect(Buffer.compare(buffer.read(), pattern(buffer.sizeBytes, index))).toBe(0);
}

/** Open spill files of this process. */
function spillFiles(): { path: string; target: string }[] {
  const paths = readdirSync("/proc/self/fd").map((name) => `/proc/self/fd/${name}`);
  return paths.flatMap((path) => {
    const target = targetOf(path);
    return target.startsWith(folder) ? [{ path, target }] : [];
  });
}

function targetOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // that of the listing itself
  }
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "camem-spill-"));
});

afterEach(async () => {
  await allocator.close();
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
  expect(spillFiles()).toEqual([]);
  rmSync(folder, { recursive: true, force: true });
});

test.each([
  ["with", true],
  ["without", false],
])("wakeUp() restores spilled content, %s checksums", async (_, verify) => {
  open({ verify });
  for (let cycle = 0; cycle < 3; cycle++) {
    let progress: TransitionProgress | undefined;
    const { offloadedBytes, copiedBytes } = await allocator.sleep({
      onProgress: (latest) => {
        progress = latest;
      },
    });
    expect([offloadedBytes, copiedBytes]).toEqual([46 * MiB, 46 * MiB]);
    const contentBytes = sizes.reduce((sum, size) => sum + size);
    expect(progress).toEqual({ phase: "done", bytesDone: contentBytes, bytesTotal: contentBytes });
    expect(allocator.usage()).toMatchObject({
      weights: { hostBytes: 0, spilledBytes: 6 * MiB, state: "asleep" },
      buffers: { hostBytes: 0, spilledBytes: 40 * MiB, state: "asleep" },
    });
    expect(allocator.hostUsage().pageLockedBytes).toBe(0);
    expect((await allocator.wakeUp()).restoredBytes).toBe(46 * MiB);
    expectContents();
    expect(allocator.usage()["weights"]?.spilledBytes).toBe(0);
  }
});

test("spill files are unlinked, private and preallocated", async () => {
  open();
  await allocator.sleep();
  expect(readdirSync(folder)).toEqual([]);
  const files = spillFiles();
  expect(files).toHaveLength(1);
  for (const { path, target } of files) {
    expect(target).toEndWith("(deleted)");
    const { mode, nlink, size, blocks } = statSync(path);
    expect(mode & 0o777).toBe(0o600);
    expect(nlink).toBe(0);
    expect(size).toBe(46 * MiB);
    expect(blocks * 512).toBeGreaterThanOrEqual(size);
  }
  await allocator.wakeUp({ tags: ["weights"] });
  expect(spillFiles()).toHaveLength(1);
  await allocator.wakeUp();
  expect(spillFiles()).toEqual([]);
});

test("sleep() opens one spill file for each device, however many tags and sleeps there are", async () => {
  open();
  const tags = Array.from({ length: 12 }, (_, index) => `adapter-${index}`);
  const adapters = tags.map((tag, index) => {
    const buffer = allocator.malloc(2 * MiB, { tag, device: index % 2 });
    buffer.write(pattern(2 * MiB, 50 + index));
    return buffer;
  });
  const before = readdirSync("/proc/self/fd").length;
  await allocator.sleep({
    offloadTags: ["weights", "buffers", ...tags.slice(0, 4)],
    tags: ["weights", "buffers", ...tags.slice(0, 4)],
  });
  for (const tag of tags.slice(4)) await allocator.sleep({ offloadTags: [tag], tags: [tag] });
  expect(spillFiles()).toHaveLength(2);
  expect(readdirSync("/proc/self/fd").length - before).toBe(2);
  await allocator.wakeUp();
  expectContents();
  for (const [index, buffer] of adapters.entries())
    expect(buffer.read()).toEqual(pattern(2 * MiB, 50 + index));
  expect(spillFiles()).toEqual([]);
});

test("sleep() uses space of the spill file again, so that it does not grow", async () => {
  open();
  allocator.defineTag("weights", { immutable: true });
  await allocator.sleep();
  const sizeOf = () => spillFiles().map(({ path }) => statSync(path).size);
  const [size = 0] = sizeOf();
  for (let cycle = 0; cycle < 3; cycle++) {
    await allocator.wakeUp();
    buffers[1]?.write(pattern(40 * MiB, 1));
    await allocator.sleep();
    expect(sizeOf()).toEqual([size]);
  }
  await allocator.wakeUp();
  expectContents();
});

test("sleep() spills to the folder of its own allocator while backups lie in another folder", async () => {
  open();
  await allocator.sleep({ tags: ["weights"] });
  const other = mkdtempSync(join(tmpdir(), "camem-spill-"));
  localNative.setSpillFolder(other);
  await allocator.sleep();
  localNative.setSpillFolder(folder);
  const targets = readdirSync("/proc/self/fd").map((name) => targetOf(`/proc/self/fd/${name}`));
  expect(targets.filter((target) => target.startsWith(other))).toHaveLength(1);
  expect(spillFiles()).toHaveLength(1);
  await allocator.wakeUp();
  expectContents();
  rmSync(other, { recursive: true });
});

test("free() releases the disk space of a spilled backup", async () => {
  open();
  await allocator.sleep({ tags: ["weights"] });
  const blocks = () => spillFiles().map(({ path }) => statSync(path).blocks * 512);
  expect(blocks()).toEqual([6 * MiB]);
  buffers[0]?.free();
  expect(blocks()).toEqual([2 * MiB]);
  buffers[2]?.free();
  expect(blocks()).toEqual([]);
});

test("sleep() spills only what exceeds the host budget", async () => {
  open({ hostBudget: 10 * MiB });
  expect(allocator.plan("sleep")).toMatchObject({
    host: { neededBytes: 6 * MiB, freeBytes: 10 * MiB },
    spill: { neededBytes: 40 * MiB },
    fits: true,
  });
  await allocator.sleep();
  expect(allocator.usage()).toMatchObject({
    weights: { hostBytes: 6 * MiB, spilledBytes: 0 },
    buffers: { hostBytes: 0, spilledBytes: 40 * MiB },
  });
  await allocator.wakeUp();
  expectContents();
});

test("backup() reads spilled backups, and a deeper sleep drops them", async () => {
  open();
  await allocator.sleep();
  const [backup] = allocator.backup("buffers");
  expect(backup?.read(17 * MiB - 5, 100)).toEqual(pattern(40 * MiB, 1).slice(17 * MiB - 5, 17 * MiB + 95));
  await allocator.sleep({ level: 2, tags: ["weights"] });
  expect(allocator.usage()["weights"]).toMatchObject({ spilledBytes: 0, discardedBytes: 6 * MiB });
  expect(allocator.backup("weights")).toEqual([]);
});

test("sleep() spills an immutable tag once", async () => {
  open();
  allocator.defineTag("weights", { immutable: true });
  await allocator.sleep({ tags: ["weights"] });
  await allocator.wakeUp();
  expect(allocator.usage()["weights"]).toMatchObject({ spilledBytes: 6 * MiB, mappedBytes: 6 * MiB });
  expect(await allocator.sleep({ tags: ["weights"] })).toMatchObject({ copiedBytes: 0 });
  await allocator.wakeUp();
  expectContents();
});

describe("a deleted spillDir", () => {
  test("wakeUp() restores spilled memory and sleep() without spilling succeeds when spillDir is gone", async () => {
    open({ hostBudget: 10 * MiB });
    await allocator.sleep();
    rmSync(folder, { recursive: true });
    await allocator.wakeUp();
    expectContents();
    await allocator.sleep({ tags: ["weights"] });
    await allocator.wakeUp();
    expectContents();
  });

  test("sleep() throws when it must spill and spillDir is gone", async () => {
    open();
    rmSync(folder, { recursive: true });
    expect(await codeOf(() => allocator.sleep())).toBe("FILE_FAILED");
    expect(allocator.plan("sleep")).toMatchObject({ fits: false, spill: { freeBytes: 0 } });
    expectContents();
  });
});

test("getInstance() leaves nothing open when it refuses spillDir", async () => {
  open();
  await allocator.close();
  const tooLong = join(folder, ...Array.from({ length: 17 }, () => "x".repeat(250)));
  const error = await failureOf(() => CaMemAllocator.getInstance({ spillDir: tooLong }));
  expect(error.code).toBe("INVALID_CONFIG");
  expect(error.message).toContain("ENAMETOOLONG");
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
});

describe.skipIf(!onEmulator)("disk faults", () => {
  const run = (name: string) =>
    outcomeOf([process.execPath, join(import.meta.dirname, "spill-process.ts"), name], {
      env: { ...process.env, CAMEM_EMULATOR_DEVICES: "2" },
    });

  beforeEach(() => {
    allocator = CaMemAllocator.getInstance();
  });

  test.each([
    "disk full",
    "disk full while writing",
    "larger than files may be",
    "flush fails",
    "flush of the first file fails",
    "reading fails",
  ])("transition rejects and keeps the content when: %s", async (name) => {
    expect(await run(name)).toEqual({ exitCode: 0, stdout: "", stderr: "" });
  });

  test("spill files leave nothing on disk when the process is killed", async () => {
    const { exitCode, stdout } = await run("killed");
    expect(exitCode).not.toBe(0);
    const left = stdout.trim();
    expect(readdirSync(left)).toEqual([]);
    rmSync(left, { recursive: true });
  });
});
