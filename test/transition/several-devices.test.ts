/** Each device has its own thread that moves its memory; the outcome is decided for all devices together. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, CamemError, type DeviceBuffer, loadSafetensors } from "camem";
import { checkpointOf } from "../support/checkpoint.ts";
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
} from "../support/device.ts";

const internalError = 507899;

let allocator: CaMemAllocator;
let folder: string;
let items: { buffer: DeviceBuffer; content: Uint8Array }[];

/** Page-locked, spilled and checkpointed content on both devices. */
beforeEach(async () => {
  if (!onEmulator) return;
  folder = mkdtempSync(join(tmpdir(), "camem-devices-"));
  allocator = CaMemAllocator.getInstance({ spillDir: folder, hostBudget: 30 * MiB, verify: true });
  items = [];
  for (const device of [0, 1]) {
    for (const [tag, sizeBytes] of [
      ["weights", 3 * MiB],
      ["weights", 8 * MiB + 1],
      ["buffers", 20 * MiB],
    ] as const) {
      const content = pattern(sizeBytes, items.length);
      const buffer = allocator.malloc(sizeBytes, { tag, device });
      buffer.write(content);
      items.push({ buffer, content });
    }
    const path = join(folder, `${device}.safetensors`);
    const content = pattern(5 * MiB, 100 + device);
    writeFileSync(path, checkpointOf({ tensor: content }));
    const tensors = await loadSafetensors(path, { allocator, device, backing: "file" });
    for (const { buffer } of tensors.values()) items.push({ buffer, content });
  }
});

afterEach(async () => {
  if (!onEmulator) return;
  setFaults("");
  await allocator.close();
  expect(accounting()).toEqual(nothingHeld);
  rmSync(folder, { recursive: true });
});

function expectContents(): void {
  for (const { buffer, content } of items) expect(Buffer.compare(buffer.read(), content)).toBe(0);
}

const states = () => new Set(items.map(({ buffer }) => buffer.state));

test.skipIf(!onEmulator)("wakeUp() restores content of every kind of backup on each device", async () => {
  for (let cycle = 0; cycle < 3; cycle++) {
    await allocator.sleep();
    const { weights, buffers } = allocator.usage();
    expect((weights?.hostBytes ?? 0) + (buffers?.hostBytes ?? 0)).toBe(28 * MiB);
    expect(buffers?.spilledBytes).toBe(40 * MiB);
    expect(weights?.checkpointBytes).toBe(10 * MiB);
    expect(accounting().physicalBytes).toBe(0);
    await allocator.wakeUp();
    expectContents();
  }
});

const sleepCalls = ["aclrtMemcpyAsync", "aclrtSynchronizeStream", "aclrtUnmapMem"];
const wakeCalls = ["aclrtMallocPhysical", "aclrtMapMem", "aclrtMemcpyAsync", "aclrtSynchronizeStream"];

/** The number of calls of a function that `run` makes. */
async function countOf(call: string, run: () => Promise<unknown>): Promise<number> {
  setFaults("");
  await run();
  return callCount(call);
}

/** The error of `run`; undefined when this run made fewer calls, which depends on how streams share the work. */
async function errorOf(faults: string, run: () => Promise<unknown>): Promise<CamemError | undefined> {
  setFaults(faults);
  const error = await run().then(
    () => undefined,
    (reason: unknown) => reason,
  );
  setFaults("");
  if (error === undefined || error instanceof CamemError) return error;
  throw error;
}

test.skipIf(!onEmulator).each(sleepCalls)(
  "sleep() leaves both devices awake when %s fails on one",
  async (call) => {
    const count = await countOf(call, () => allocator.sleep());
    await allocator.wakeUp();
    expect(count).toBeGreaterThan(3);
    for (let k = 1; k <= count; k++) {
      const error = await errorOf(`${call}:${k}=${internalError}`, () => allocator.sleep());
      if (error === undefined) {
        await allocator.wakeUp();
        continue;
      }
      expect(error.call).toBe(call);
      expect(states()).toEqual(new Set(["mapped"]));
      expect(allocator.hostUsage().pageLockedBytes).toBe(0);
      expectContents();
    }
    await allocator.sleep();
    await allocator.wakeUp();
    expectContents();
  },
);

test.skipIf(!onEmulator).each(wakeCalls)(
  "wakeUp() leaves both devices asleep when %s fails on one",
  async (call) => {
    await allocator.sleep();
    const count = await countOf(call, () => allocator.wakeUp());
    expect(count).toBeGreaterThan(3);
    await allocator.sleep();
    for (let k = 1; k <= count; k++) {
      const error = await errorOf(`${call}:${k}=${internalError}`, () => allocator.wakeUp());
      if (error === undefined) {
        await allocator.sleep();
        continue;
      }
      expect(error.call).toBe(call);
      expect(states()).toEqual(new Set(["offloaded"]));
      expect(accounting().physicalBytes).toBe(0);
    }
    await allocator.wakeUp();
    expectContents();
  },
);

test.skipIf(!onEmulator).each(["sleep", "wakeUp"] as const)(
  "an aborted %s is undone on both",
  async (name) => {
    if (name === "wakeUp") await allocator.sleep();
    const controller = new AbortController();
    const { signal } = controller;
    const onProgress = ({ phase, bytesDone }: { phase: string; bytesDone: number }) => {
      if (phase === "copying" && bytesDone > 0) controller.abort();
    };
    const outcome = await allocator[name]({ signal, onProgress }).then(
      () => "done",
      (error) => error.code,
    );
    const [before, after] = name === "sleep" ? ["mapped", "offloaded"] : ["offloaded", "mapped"];
    // The abort is too late when all copies end first.
    expect<Set<string>>(states()).toEqual(new Set([outcome === "ABORTED" ? before : after]));
    await allocator.wakeUp();
    expectContents();
  },
);

test.skipIf(!onEmulator)("sleep() reports a failed device without waiting for a busy one", async () => {
  const held = holdDevice();
  // Which of the two waits first is not known; the other one's wait is the second call. Some of these meet the idle one.
  for (const k of [1, 2, 1, 2, 1, 2]) {
    setFaults(`aclrtSynchronizeDeviceWithTimeout:${k}=${internalError}`);
    expect(await codeOf(() => allocator.sleep())).toBe("ACL_CALL_FAILED");
  }
  setFaults("");
  held.release();
  expect(states()).toEqual(new Set(["mapped"]));
  expectContents();
});
