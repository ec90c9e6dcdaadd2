/** Immutable content has one backup: later sleeps only unmap it, and writes throw. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type AllocatorOptions, CaMemAllocator, type DeviceBuffer, loadSafetensors } from "camem";
import { localNative } from "../../src/ffi/index.ts";
import { checkpointOf } from "../support/checkpoint.ts";
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
import { rejectionMessage } from "../support/rejection.ts";
import { memoryAt } from "../support/runtime.ts";

let allocator: CaMemAllocator;
let weights: DeviceBuffer;
let folder: string;
const content = pattern(3 * MiB, 4);
const other = pattern(3 * MiB, 5);

function open(options: AllocatorOptions = {}): void {
  allocator = CaMemAllocator.getInstance(options);
  weights = allocator.malloc(content.length, { tag: "weights" });
  weights.write(content);
}

async function reopen(options: AllocatorOptions): Promise<void> {
  await allocator.close();
  open(options);
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "camem-immutable-"));
  open();
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await allocator.close();
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
  rmSync(folder, { recursive: true });
});

const immutable = { immutable: true };

/** Sleeps and wakes the tag once. */
async function cycle(): Promise<{ copiedBytes: number }> {
  const report = await allocator.sleep();
  await allocator.wakeUp();
  return report;
}

async function expectFinal(buffer: DeviceBuffer, bytes: Uint8Array): Promise<void> {
  expect(buffer.immutable).toBe(true);
  const error = await failureOf(() => buffer.write(new Uint8Array(1)));
  expect(error.code).toBe("BUFFER_IMMUTABLE");
  expect(error.message).toContain("markDirty");
  expect(await codeOf(() => buffer.fill(0))).toBe("BUFFER_IMMUTABLE");
  expect(Buffer.compare(buffer.read(), bytes)).toBe(0);
}

describe("immutable content", () => {
  test("defineTag({ immutable }) makes existing memory immutable", async () => {
    allocator.defineTag("weights", immutable);
    await expectFinal(weights, content);
  });

  test("sleep() makes later memory of an immutable tag immutable", async () => {
    allocator.defineTag("weights", immutable);
    const late = allocator.malloc(content.length, { tag: "weights" });
    late.write(other);
    await cycle();
    await expectFinal(weights, content);
    await expectFinal(late, other);
  });

  test("loadSafetensors() makes memory of an immutable tag immutable", async () => {
    const path = join(folder, "model.safetensors");
    writeFileSync(path, checkpointOf({ tensor: other }));
    allocator.defineTag("weights", immutable);
    const tensors = await loadSafetensors(path, { allocator });
    const buffer = tensors.get("tensor")?.buffer;
    if (buffer) await expectFinal(buffer, other);
    const error = await failureOf(() => loadSafetensors(path, { allocator, into: tensors }));
    expect(error.code).toBe("BUFFER_IMMUTABLE");
    expect(error.message).toContain('markDirty("weights")');
  });

  test("wakeUp() makes memory immutable whose tag was declared while asleep", async () => {
    await allocator.sleep();
    allocator.defineTag("weights", immutable);
    await allocator.wakeUp();
    await expectFinal(weights, content);
  });

  test("defineTag({ immutable }) makes memory immutable that is moving", async () => {
    const held = holdDevice();
    const sleeping = allocator.sleep();
    while (weights.state !== "moving") await sleep(0);
    allocator.defineTag("weights", immutable);
    held.release();
    await sleeping;
    await allocator.wakeUp();
    await expectFinal(weights, content);
    expect(await cycle()).toMatchObject({ copiedBytes: 0 });
  });

  test.skipIf(!onEmulator)(
    "memory stays immutable after a sleep that failed and could not be undone",
    async () => {
      allocator.malloc(MiB, { tag: "weights" });
      allocator.defineTag("weights", immutable);
      setFaults("aclrtUnmapMem:2=507899,aclrtMapMem:1=507899");
      expect((await failureOf(() => allocator.sleep())).message).toContain("undoing it failed");
      setFaults("");
      await allocator.wakeUp();
      await expectFinal(weights, content);
    },
  );

  test("sleep({ level: 2 }) makes immutable memory writable again", async () => {
    allocator.defineTag("weights", immutable);
    await cycle();
    await allocator.sleep({ level: 2 });
    expect(allocator.usage()["weights"]).toMatchObject({ hostBytes: 0, discardedBytes: 4 * MiB });
    await allocator.wakeUp();
    weights.write(other);
    expect(await cycle()).toMatchObject({ copiedBytes: 4 * MiB });
    await expectFinal(weights, other);
  });

  test("defineTag({ immutable: false }) makes memory writable, and throws while the tag sleeps", async () => {
    allocator.defineTag("weights", immutable);
    await allocator.sleep();
    expect(await codeOf(() => allocator.defineTag("weights", { immutable: false }))).toBe("BUFFER_ASLEEP");
    await allocator.wakeUp();
    allocator.defineTag("weights", { immutable: false });
    weights.write(other);
    expect(await cycle()).toMatchObject({ copiedBytes: 4 * MiB });
    expect(weights.immutable).toBe(false);
  });
});

describe("later sleeps of an immutable tag", () => {
  beforeEach(async () => {
    allocator.defineTag("weights", immutable);
    expect(await cycle()).toMatchObject({ copiedBytes: 4 * MiB });
  });

  test.skipIf(!onEmulator)(
    "sleep() copies nothing and takes no host memory when an immutable tag has a backup",
    async () => {
      expect(allocator.usage()["weights"]).toMatchObject({ hostBytes: 4 * MiB, mappedBytes: 4 * MiB });
      for (let round = 0; round < 3; round++) {
        setFaults("");
        expect(await allocator.sleep()).toMatchObject({
          offloadedBytes: 4 * MiB,
          copiedBytes: 0,
          freedBytes: 4 * MiB,
        });
        expect(callCount("aclrtMemcpyAsync")).toBe(0);
        expect(callCount("aclrtMallocHost")).toBe(0);
        expect(accounting().physicalBytes).toBe(0);
        await allocator.wakeUp();
        expect(callCount("aclrtFreeHost")).toBe(0);
        expect(Buffer.compare(weights.read(), content)).toBe(0);
      }
    },
  );

  test("sleep() needs no host budget when an immutable tag has a backup", async () => {
    await reopen({ hostBudget: 4 * MiB });
    allocator.defineTag("weights", immutable);
    await cycle();
    expect(allocator.plan("sleep")).toMatchObject({ host: { neededBytes: 0, freeBytes: 0 }, fits: true });
    await cycle();
    expect(Buffer.compare(weights.read(), content)).toBe(0);
  });

  test("sleep() copies only new memory of an immutable tag", async () => {
    const pool = allocator.memoryPool("weights");
    const first = pool.malloc(1000);
    first.fill(1);
    await cycle();
    const second = pool.malloc(1000);
    expect(Math.abs(second.ptr - first.ptr)).toBeGreaterThanOrEqual(2 * MiB);
    second.fill(2);
    const { sizeBytes } = localNative.snapshot().at(-1) ?? {};
    expect(await cycle()).toMatchObject({ copiedBytes: sizeBytes });
    expect(second.read()).toEqual(new Uint8Array(1000).fill(2));
    expect(first.read()).toEqual(new Uint8Array(1000).fill(1));
  });

  test.skipIf(!onEmulator)("sleep() keeps backup and content of an immutable tag when it fails", async () => {
    setFaults("aclrtUnmapMem:1=507899");
    expect((await failureOf(() => allocator.sleep())).message).toContain("nothing has changed");
    setFaults("");
    await expectFinal(weights, content);
    expect(await cycle()).toMatchObject({ copiedBytes: 0 });
    expect(Buffer.compare(weights.read(), content)).toBe(0);
  });

  test.skipIf(!onEmulator)("wakeUp() keeps the backup of an immutable tag when it fails", async () => {
    await allocator.sleep();
    setFaults("aclrtMemcpyAsync.task:1=507899");
    await failureOf(() => allocator.wakeUp());
    setFaults("");
    await allocator.wakeUp();
    expect(await cycle()).toMatchObject({ copiedBytes: 0 });
    expect(Buffer.compare(weights.read(), content)).toBe(0);
  });
});

describe("markDirty", () => {
  beforeEach(async () => {
    allocator.defineTag("weights", immutable);
    await cycle();
  });

  test("markDirty() permits writes and makes the next sleep copy again", async () => {
    allocator.markDirty("weights");
    expect(allocator.usage()["weights"]?.hostBytes).toBe(0);
    while (allocator.hostUsage().pageLockedBytes > 0) await sleep(1);
    weights.write(other);
    expect(await cycle()).toMatchObject({ copiedBytes: 4 * MiB });
    await expectFinal(weights, other);
    expect(await cycle()).toMatchObject({ copiedBytes: 0 });
  });

  test("markDirty() throws while memory of the tag sleeps or moves", async () => {
    await allocator.sleep();
    expect(await codeOf(() => allocator.markDirty("weights"))).toBe("BUFFER_ASLEEP");
    await allocator.wakeUp();
    const held = holdDevice();
    const sleeping = allocator.sleep();
    while (weights.state !== "moving") await sleep(0);
    expect(await codeOf(() => allocator.markDirty("weights"))).toBe("BUFFER_MOVING");
    held.release();
    expect(await sleeping).toMatchObject({ copiedBytes: 0 });
    await allocator.wakeUp();
    await expectFinal(weights, content);
  });

  test("markDirty() throws for an invalid tag", async () => {
    expect(await codeOf(() => allocator.markDirty("wieghts"))).toBe("UNKNOWN_TAG");
    expect(await codeOf(() => allocator.markDirty(""))).toBe("INVALID_TAG");
  });
});

describe("loading", () => {
  const parts = ["first", "second", "third"];
  const pathOf = (name: string) => join(folder, `${name}.safetensors`);

  beforeEach(() => {
    // Large enough for the event loop to run between their chunks.
    for (const [index, name] of parts.entries())
      writeFileSync(pathOf(name), checkpointOf({ [name]: pattern(20 * MiB * (index + 1), index) }));
    allocator.defineTag("weights", immutable);
  });

  test("loadSafetensors() makes content immutable when the last of several loads ends", async () => {
    const loads = parts.map((name) => loadSafetensors(pathOf(name), { allocator }));
    for (const [index, load] of loads.entries()) {
      const buffer = (await load).get(parts[index] ?? "")?.buffer;
      expect(
        Buffer.compare(buffer?.read() ?? new Uint8Array(0), pattern(20 * MiB * (index + 1), index)),
      ).toBe(0);
    }
    for (const load of loads)
      for (const { buffer } of (await load).values()) expect(buffer.immutable).toBe(true);
  });

  test("loadSafetensors() leaves writable memory when it fails", async () => {
    await allocator.sleep({ level: 2 });
    await allocator.wakeUp();
    const tensors = await loadSafetensors(pathOf("first"), { allocator });
    allocator.markDirty("weights");
    const controller = new AbortController();
    const { signal } = controller;
    const load = codeOf(() => loadSafetensors(pathOf("first"), { allocator, into: tensors, signal }));
    await sleep(0);
    controller.abort();
    expect(await load).toBe("ABORTED");
    await loadSafetensors(pathOf("first"), { allocator, into: tensors });
    const buffer = tensors.get("first")?.buffer;
    if (buffer) await expectFinal(buffer, pattern(20 * MiB, 0));
  });

  test("loadSafetensors() keeps what it loaded when memory of the tag moves meanwhile", async () => {
    const held = holdDevice();
    const sleeping = allocator.sleep({ tags: ["weights"] });
    while (weights.state !== "moving") await sleep(0);
    const tensors = await loadSafetensors(pathOf("first"), { allocator });
    expect(tensors.get("first")?.buffer.immutable).toBe(true);
    held.release();
    await sleeping;
  });
});

describe("with verify", () => {
  beforeEach(async () => {
    await reopen({ verify: true });
    allocator.defineTag("weights", immutable);
    await cycle();
  });

  test("sleep() detects a changed backup of an immutable tag before it unmaps memory", async () => {
    const [segment] = localNative.snapshot();
    const memory = memoryAt(segment?.hostAddress ?? 0, 4 * MiB);
    memory[MiB] = (memory[MiB] ?? 0) ^ 1;
    const error = await failureOf(() => allocator.sleep());
    expect(error.code).toBe("BACKUP_CORRUPT");
    expect(error.message).toContain("call markDirty(tag)");
    expect(error.address).toBe(weights.ptr);
    await expectFinal(weights, content);
    allocator.markDirty("weights");
    expect(await cycle()).toMatchObject({ copiedBytes: 4 * MiB });
    expect(Buffer.compare(weights.read(), content)).toBe(0);
  });
});

describe("with a Worker", () => {
  let worker: Worker;

  function start(env: Record<string, string> = {}): void {
    worker = new Worker(new URL("../support/allocator-worker.ts", import.meta.url), {
      type: "module",
      env: { ...(process.env as Record<string, string>), ...env },
    });
  }

  function ask(command: string): Promise<unknown> {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    worker.onmessage = ({ data }) =>
      data.error === undefined ? resolve(data.value) : reject(new Error(data.error));
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage(command);
    return promise;
  }

  afterEach(async () => {
    await ask("close");
    worker.terminate();
  });

  test("wakeUp() in a Worker keeps the backup and the content immutable", async () => {
    allocator.defineTag("weights", immutable);
    start();
    await allocator.sleep();
    await ask("wakeUp");
    await expectFinal(weights, content);
    expect(await cycle()).toMatchObject({ copiedBytes: 0 });
  });

  test("sleep() in a Worker with verify compares a backup without a checksum with device memory", async () => {
    allocator.defineTag("weights", immutable);
    await cycle();
    start({ CAMEM_VERIFY: "true" });
    expect(await ask("sleep")).toBe(4 * MiB);
    await ask("wakeUp");
    expect(Buffer.compare(weights.read(), content)).toBe(0);
    allocator.markDirty("weights");
    await cycle();
    const [segment] = localNative.snapshot();
    const memory = memoryAt(segment?.hostAddress ?? 0, 4 * MiB);
    memory[MiB] = (memory[MiB] ?? 0) ^ 1;
    expect(await rejectionMessage(ask("sleep"))).toContain("the checksum of the backup");
  });
});
