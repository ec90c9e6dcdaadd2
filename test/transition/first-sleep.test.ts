/** A first sleep page-locks memory and copies to it side by side: what is there at its end, and after each failure. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AllocatorOptions, CaMemAllocator, CamemError, type DeviceBuffer } from "camem";
import {
  accounting,
  callCount,
  codeOf,
  failureOf,
  holdDevice,
  MiB,
  nothingHeld,
  onEmulator,
  pattern,
  setFaults,
} from "../support/device.ts";

/** Weights on device 0 are more than what one call page-locks, which is at most 64 MiB. */
const layout = [
  { sizeBytes: 66 * MiB, tag: "weights", device: 0 },
  { sizeBytes: 20 * MiB + 5, tag: "weights", device: 0 },
  { sizeBytes: 3 * MiB, tag: "buffers", device: 0 },
  { sizeBytes: 8 * MiB, tag: "weights", device: 1 },
];
const offloadedBytes = 100 * MiB;
const contents = layout.map(({ sizeBytes }, index) => pattern(sizeBytes, index));
const contentOf = (index: number) => contents[index] ?? new Uint8Array();

let allocator: CaMemAllocator;
let buffers: DeviceBuffer[];
let folder: string;

function open(options: AllocatorOptions = {}): void {
  allocator = CaMemAllocator.getInstance(options);
  buffers = layout.map(({ sizeBytes, tag, device }) => allocator.malloc(sizeBytes, { tag, device }));
  for (const [index, buffer] of buffers.entries()) buffer.write(contentOf(index));
}

function expectContents(): void {
  for (const [index, buffer] of buffers.entries())
    expect(Buffer.compare(buffer.read(), contentOf(index))).toBe(0);
}

async function expectUnharmed(): Promise<void> {
  setFaults("");
  expect(allocator.isSleeping).toBe(false);
  expect(allocator.hostUsage().pageLockedBytes).toBe(0);
  expectContents();
  expect(await allocator.sleep()).toMatchObject({ offloadedBytes, copiedBytes: offloadedBytes });
  await allocator.wakeUp();
  expectContents();
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "camem-first-sleep-"));
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await allocator.close();
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
  rmSync(folder, { recursive: true });
});

describe.skipIf(!onEmulator)("a first sleep", () => {
  test.each([true, false])("sleep() offloads all content, with verify %p", async (verify) => {
    open({ verify, retain: "none" });
    for (let cycle = 0; cycle < 3; cycle++) {
      const report = await allocator.sleep();
      expect(report).toMatchObject({ offloadedBytes, copiedBytes: offloadedBytes });
      expect(report.durations.preparingMs).toBeGreaterThan(0);
      expect(allocator.hostUsage().pageLockedBytes).toBe(offloadedBytes);
      await allocator.wakeUp();
      expectContents();
    }
  });

  test("sleep() copies before the last of its memory is page-locked", async () => {
    open();
    setFaults("aclrtMallocHost:4=207001"); // two for weights on device 0, one for buffers, one on device 1
    expect(await failureOf(() => allocator.sleep())).toMatchObject({ call: "aclrtMallocHost" });
    expect(callCount("aclrtMemcpyAsync")).toBeGreaterThan(0);
    await expectUnharmed();
  });

  test.each([1, 2, 3, 4])("sleep() changes nothing when page-locking call %d is refused", async (call) => {
    open();
    setFaults(`aclrtMallocHost:${call}+=207001`);
    const error = await failureOf(() => allocator.sleep());
    expect(error).toMatchObject({ code: "OUT_OF_HOST_MEMORY", call: "aclrtMallocHost" });
    expect(error.message).toContain("the sleep needs 100 MiB of host memory in all");
    await expectUnharmed();
  });

  test.each([
    ["pageable", () => ({ pageable: true })],
    ["spillDir", () => ({ spillDir: folder })],
  ] as const)("sleep() keeps the rest as %s says once page-locking is refused", async (_, options) => {
    for (const call of [2, 3, 4]) {
      open(options());
      setFaults(`aclrtMallocHost:${call}+=207001`);
      const report = await allocator.sleep();
      setFaults("");
      expect(report).toMatchObject({ offloadedBytes, copiedBytes: offloadedBytes });
      expect(report.pageableBytes + report.spilledBytes).toBeGreaterThan(0);
      await allocator.wakeUp();
      expectContents();
      await allocator.close();
    }
    open(options());
  });

  test.each([
    "aclrtMemcpyAsync:1=507899",
    "aclrtMemcpyAsync:3=507899",
    "aclrtMemcpyAsync:9+=507899",
    "aclrtMemcpyAsync.task:2=507899",
    "aclrtSynchronizeStream:2=507899",
    "aclrtSetCurrentContext:1+=507899",
    "aclrtMallocHost:2=507899",
  ])("sleep() changes nothing when %s fails", async (fault) => {
    open();
    setFaults(fault);
    const error = await failureOf(() => allocator.sleep());
    expect(error.code).toBe("ACL_CALL_FAILED");
    await expectUnharmed();
  });

  test("content survives when any one AscendCL call of the sleep fails", async () => {
    open({ pageable: true });
    let failures = 0;
    for (let call = 1; ; call++) {
      setFaults(`*:${call}=507899`);
      const error = await allocator.sleep().catch((reason: unknown) => reason);
      const isOver = callCount("*") < call;
      setFaults("");
      if (error instanceof CamemError) failures++;
      await allocator.wakeUp();
      expectContents();
      if (isOver) break;
    }
    expect(failures).toBeGreaterThan(10);
  });

  test("sleep() changes nothing when aborted while it page-locks", async () => {
    open();
    const held = holdDevice();
    const controller = new AbortController();
    const code = codeOf(() =>
      allocator.sleep({
        signal: controller.signal,
        onProgress: ({ phase }) => phase === "preparing" && controller.abort(),
      }),
    );
    held.release();
    expect(await code).toBe("ABORTED");
    await expectUnharmed();
  });
});
