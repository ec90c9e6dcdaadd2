/** Several Workers attach to one allocator: they share the table of segments, and the last to close returns everything. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { CaMemAllocator, type DeviceBuffer } from "camem";
import type { Command } from "./support/allocator-worker.ts";
import {
  accounting,
  granulesBetween,
  holdDevice,
  MiB,
  nothingHeld,
  onEmulator,
  setFaults,
} from "./support/device.ts";
import { rejectionMessage } from "./support/rejection.ts";

let allocator: CaMemAllocator;
let own: DeviceBuffer;
let workers: Worker[];

function ask(worker: Worker, command: Command): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) =>
      data.error === undefined ? resolve(data.value) : reject(new Error(data.error));
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage(command);
  });
}

function startWorker(): Worker {
  const worker = new Worker(new URL("./support/allocator-worker.ts", import.meta.url), {
    env: process.env as Record<string, string>,
  });
  workers.push(worker);
  return worker;
}

beforeEach(() => {
  workers = [];
  allocator = CaMemAllocator.getInstance();
  own = allocator.malloc(5 * MiB, { tag: "weights" });
  own.fill(1);
});

/** Closes again until the threads of terminated Workers have ended: their attachments count until then. */
async function closeAfterWorkers(): Promise<void> {
  const deadlineMs = performance.now() + 30_000;
  await allocator.close();
  while (onEmulator && accounting().initReferences > 0 && performance.now() < deadlineMs) {
    await Bun.sleep(20);
    await CaMemAllocator.getInstance().close();
  }
}

afterEach(async () => {
  for (const worker of workers) worker.terminate();
  await closeAfterWorkers();
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
});

test("sleep() moves the memory of every Worker", async () => {
  const worker = startWorker();
  const address = await ask(worker, "allocate");
  expect(allocator.usage()["weights"]).toMatchObject({ mappedBytes: 10 * MiB, segments: 2 });
  expect((await allocator.sleep()).offloadedBytes).toBe(10 * MiB);
  expect(await ask(worker, "state")).toBe("offloaded");
  expect(await ask(worker, "wakeUp")).toBe(10 * MiB);
  expect(await ask(worker, "read")).toBe(7);
  expect(own.read(0, 1)).toEqual(new Uint8Array([1]));
  expect(address).not.toBe(own.ptr);
});

test("defineTag() counts in every Worker", async () => {
  allocator.defineTag("adapters", { 1: "offload", 2: "offload" });
  const adapter = allocator.malloc(1, { tag: "adapters" });
  adapter.fill(9);
  const worker = startWorker();
  await ask(worker, "sleep");
  expect(adapter.state).toBe("offloaded");
  await allocator.wakeUp();
  expect(adapter.read()).toEqual(new Uint8Array([9]));
  await ask(worker, "close");
});

test("free() in a Worker unmaps once queued work has ended", async () => {
  const worker = startWorker();
  await ask(worker, "allocate");
  const { freeBytes } = allocator.memGetInfo();
  const held = holdDevice();
  const { freeBytes: freeHeld } = allocator.memGetInfo();
  await ask(worker, "free");
  await Bun.sleep(50);
  expect(granulesBetween(allocator.memGetInfo().freeBytes, freeHeld)).toBe(0);
  held.release();
  const missing = () => granulesBetween(allocator.memGetInfo().freeBytes, freeBytes + 4 * MiB);
  while (missing() < 0) await Bun.sleep(1);
  expect(missing()).toBe(0);
});

test("sleep() and wakeUp() of several Workers run one after the other", async () => {
  const [first, second] = [startWorker(), startWorker()];
  await Promise.all([ask(first, "allocate"), ask(second, "allocate")]);
  await Promise.all([
    ask(first, "cycle"),
    ask(second, "cycle"),
    (async () => {
      for (let round = 0; round < 20; round++) {
        await allocator.sleep();
        await allocator.wakeUp();
      }
    })(),
  ]);
  await allocator.wakeUp();
  expect(own.read(5 * MiB - 1)).toEqual(new Uint8Array([1]));
  expect(await Promise.all([ask(first, "read"), ask(second, "read")])).toEqual([7, 7]);
}, 30_000);

test("close() in a Worker leaves memory to the others", async () => {
  const worker = startWorker();
  await ask(worker, "allocate");
  await ask(worker, "close");
  expect(allocator.usage()["weights"]?.segments).toBe(2);
  expect(own.read(0, 1)).toEqual(new Uint8Array([1]));
});

test("close() retried after a failure keeps other Workers attached", async () => {
  if (!onEmulator) return;
  setFaults("aclrtUnmapMem:1=507899");
  expect(await rejectionMessage(allocator.close())).toContain("aclrtUnmapMem");
  setFaults("");
  const worker = startWorker();
  await ask(worker, "allocate");
  await allocator.close();
  expect(await ask(worker, "read")).toBe(7);
  await ask(worker, "close");
  allocator = CaMemAllocator.getInstance();
});

test("close() succeeds after a Worker was terminated in a transition", async () => {
  const worker = startWorker();
  await ask(worker, "allocate");
  const cycling = ask(worker, "cycle");
  cycling.catch(() => undefined);
  await Bun.sleep(5);
  worker.terminate();
  await Bun.sleep(50);
  await allocator.wakeUp();
  expect(own.read(0, 1)).toEqual(new Uint8Array([1]));
});
