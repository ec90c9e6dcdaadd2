/** Scenarios without faults: a whole life, reopening, aborts, and devices that are missing or too small. */

import assert from "node:assert/strict";
import { CaMemAllocator } from "camem";
import { assertNothingLeft, host, memory, setDelay, setFaults } from "../strict-runtime.ts";
import { assertContent, assertRejects, fill, mebibyte, pattern, pluggable, thrown } from "./buffers.ts";

const devices = [0, 1] as const;

function allocateModel(allocator: CaMemAllocator) {
  const weights = devices.flatMap((device) =>
    [1, 511, 2 * mebibyte, 3 * mebibyte + 17].map((size) =>
      fill(allocator.malloc(size, { tag: "weights", device })),
    ),
  );
  const pooled = devices.flatMap((device) => {
    const pool = allocator.memoryPool("weights", { device });
    return [1, 513, 700_001, 3 * mebibyte, 5 * mebibyte + 3].map((size) => fill(pool.malloc(size)));
  });
  const caches = devices.map((device) =>
    fill(allocator.malloc(6 * mebibyte + 5, { tag: "kv_cache", device })),
  );
  const persistent = fill(allocator.malloc(4097, { tag: "sleep_persistent" }));
  allocator.defineTag("adapter", { 1: "discard", 2: "discard" });
  const adapter = fill(allocator.malloc(2 * mebibyte + 1, { tag: "adapter", device: 1 }));
  return { allocator, weights, pooled, caches, persistent, adapter };
}

type Model = ReturnType<typeof allocateModel>;

function assertKept({ weights, pooled, persistent }: Model, when: string): void {
  for (const filled of [...weights, ...pooled, persistent]) assertContent(filled, when);
}

function assertPartialAccess(allocator: CaMemAllocator): void {
  const part = allocator.malloc(10_000, { tag: "weights" });
  part.fill(7);
  part.write(new Uint8Array([1, 2, 3]), 9_997);
  part.write(new Uint8Array(0), 10_000);
  assert.deepEqual([...part.read(9_995)], [7, 7, 1, 2, 3]);
  assert.equal(thrown(() => part.write(new Uint8Array(2), 9_999)).code, "OUT_OF_BOUNDS");
  part.free();
}

/** Queues a copy of new content to a large buffer of `device`, on a stream of the host engine. */
function queueCopy({ weights }: Model, device: number) {
  const target = weights[device * 4 + 3];
  assert(target);
  const context = host.currentContext();
  host.setDevice(device);
  const stream = host.createStream();
  const source = host.mallocHost(target.bytes.length);
  target.bytes.set(pattern(target.bytes.length, 1000 + device));
  source.bytes.set(target.bytes);
  host.queueToDevice(target.ptr, source.address, target.bytes.length, stream);
  if (context !== undefined) host.setCurrentContext(context);
  return { device, stream, source };
}

function releaseCopy({ device, stream, source }: ReturnType<typeof queueCopy>): void {
  const context = host.currentContext();
  host.setDevice(device);
  host.destroyStream(stream);
  host.freeHost(source.address);
  if (context !== undefined) host.setCurrentContext(context);
  // One reset for each of the two calls of setDevice.
  host.resetDevice(device);
  host.resetDevice(device);
}

/** Wakes what is used first first, while a stream of the host engine waits for it. */
async function wakeInOrder(model: Model): Promise<void> {
  const { allocator, weights, pooled, adapter } = model;
  await allocator.sleep();
  const order = [...pooled, ...weights].map(({ buffer }) => buffer);
  const wake = allocator.wakeUp({ order });
  const context = host.currentContext();
  host.setDevice(0);
  const stream = host.createStream();
  for (const buffer of order.filter(({ device }) => device === 0)) await wake.streamWait(stream, buffer);
  await Promise.all(order.map((buffer) => wake.ready(buffer)));
  await wake;
  assertKept(model, "after an ordered wake-up");
  adapter.buffer.write(adapter.bytes);
  host.setDevice(0);
  host.destroyStream(stream);
  if (context !== undefined) host.setCurrentContext(context);
  for (let hold = 0; hold < 2; hold++) host.resetDevice(0);
}

/** A sleep waits for queued work on each device and keeps its result. */
async function sleepWithQueuedCopies(model: Model): Promise<void> {
  const { allocator, adapter } = model;
  const copies = devices.map((device) => queueCopy(model, device));
  const before = memory();
  assert.equal(before.queuedCopies, 2);
  const report = await allocator.sleep();
  assert.equal(memory().queuedCopies, 0);
  assert(report.freedBytes > 0);
  assert.equal(memory().physicalBytes, report.keptBytes);
  assert.equal(memory().reservations, before.reservations);
  await allocator.wakeUp();
  assertKept(model, "after level 1");
  adapter.buffer.write(adapter.bytes);
  for (const copy of copies) releaseCopy(copy);
}

async function sleepTagByTag(model: Model): Promise<void> {
  const { allocator, weights, persistent, adapter } = model;
  await allocator.sleep({ tags: ["kv_cache"] });
  assertKept(model, "while the cache sleeps");
  await allocator.sleep({ offloadTags: ["weights", "adapter"] });
  assert.equal(thrown(() => weights[0]?.buffer.read()).code, "BUFFER_ASLEEP");
  assertContent(persistent, "while all else sleeps");
  await allocator.wakeUp({ tags: ["weights"] });
  assertKept(model, "after a partial wake-up");
  assert.equal(adapter.buffer.state, "offloaded");
  assert((await allocator.sleep({ tags: ["weights"] })).offloadedBytes > 0);
  await allocator.wakeUp();
  assertKept(model, "after waking the rest");
  assertContent(adapter, "after offloadTags");
}

/** Level 2 keeps only the tags whose policy says so, and a deeper sleep drops the backups of a lighter one. */
async function sleepByPolicy(model: Model): Promise<void> {
  const { allocator, weights, pooled, caches, persistent, adapter } = model;
  allocator.defineTag("adapter", { 1: "keep", 2: "offload" });
  await allocator.sleep({ level: 1 });
  assertContent(adapter, "kept at level 1");
  await allocator.sleep({ level: 2 });
  assert.equal(memory().hostBytes, 4 * mebibyte);
  await allocator.wakeUp();
  assertContent(adapter, "after level 2");
  assertContent(persistent, "after level 2");
  for (const { buffer, bytes } of [...weights, ...pooled, ...caches]) buffer.write(bytes);
  assertKept(model, "after loading again");
}

/** Frees buffers that are asleep, that are moving, and that queued work still uses. */
async function freeAtEveryMoment({ allocator, weights, pooled, caches }: Model): Promise<void> {
  await allocator.sleep();
  weights[0]?.buffer.free();
  caches[0]?.buffer.free();
  const waking = allocator.wakeUp();
  weights[1]?.buffer.free();
  await waking;
  const busy = allocator.malloc(2 * mebibyte, { tag: "default" });
  host.setDevice(0);
  const stream = host.createStream();
  const source = host.mallocHost(busy.sizeBytes);
  host.queueToDevice(busy.ptr, source.address, busy.sizeBytes, stream);
  busy.free();
  host.destroyStream(stream);
  host.freeHost(source.address);
  host.resetDevice(0);
  for (const filled of [...weights.slice(2), ...pooled]) assertContent(filled, "after freeing others");
}

async function sleepNativeAllocations(allocator: CaMemAllocator): Promise<void> {
  const natives = allocator.useMemoryPool("weights", () =>
    devices.map((device) => Number(pluggable.my_malloc(3_000_000, device, null))),
  );
  assert(natives.every((address) => address > 0));
  assert.equal(Number(pluggable.my_malloc(1, 7, null)), 0);
  assert.equal(Number(pluggable.my_malloc(-1, 0, null)), 0);
  await allocator.sleep();
  pluggable.my_free(natives[0] ?? 0, 3_000_000, 0, null);
  await allocator.wakeUp();
  pluggable.my_free(natives[1] ?? 0, 3_000_000, 1, null);
}

/** Allocates, sleeps, wakes and frees on two devices in every combination that one process can have. */
export async function lifecycle(): Promise<void> {
  const allocator = CaMemAllocator.getInstance({ poolSegment: "4MiB" });
  const model = allocateModel(allocator);
  assertKept(model, "after writing");
  assertPartialAccess(allocator);
  await sleepWithQueuedCopies(model);
  await wakeInOrder(model);
  await sleepTagByTag(model);
  await sleepByPolicy(model);
  await freeAtEveryMoment(model);
  await sleepNativeAllocations(allocator);
  for (const { buffer } of model.pooled.slice(0, 5)) buffer.free();
  await allocator.close();
  assert.equal(Number(pluggable.my_malloc(1, 0, null)), 0);
}

/** Closes the allocator asleep, awake and in the middle of a sleep, and opens it again. */
export async function reopen(): Promise<void> {
  for (let round = 0; round < 3; round++) {
    const allocator = CaMemAllocator.getInstance();
    const filled = fill(allocator.malloc(3 * mebibyte, { tag: "weights", device: round % 2 }));
    allocator.malloc(3 * mebibyte, { tag: "kv_cache" });
    if (round > 0) await allocator.sleep();
    if (round > 1) {
      await allocator.wakeUp();
      assertContent(filled, "after reopening");
      setDelay(20);
      const sleeping = allocator.sleep().catch((error: unknown) => error);
      await Bun.sleep(5);
      await allocator.close();
      await sleeping;
      setDelay(0);
    } else {
      await allocator.close();
    }
    assertNothingLeft();
  }
}

/** Aborts transitions before they begin, while they wait for the device, and in the middle of their copies. */
export async function abortTransitions(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const filled = [0, 1].map((device) =>
    fill(allocator.malloc(200 * mebibyte + 9, { tag: "weights", device })),
  );
  const cache = allocator.malloc(2 * mebibyte, { tag: "kv_cache" });
  const awake = memory();
  await assertRejects(allocator.sleep({ signal: AbortSignal.abort() }), "ABORTED");
  assert.deepEqual(memory(), awake);

  setFaults("aclrtSynchronizeDeviceWithTimeout:1+=507046");
  await assertRejects(allocator.sleep({ signal: AbortSignal.timeout(30) }), "ABORTED");
  setFaults();
  assert.deepEqual(memory(), awake);

  setDelay(60);
  const abortInTheMiddle = (transition: "sleep" | "wakeUp") => {
    const controller = new AbortController();
    return assertRejects(
      allocator[transition]({
        signal: controller.signal,
        onProgress: ({ phase, bytesDone }) => {
          if (phase !== "copying") return;
          assert.equal(cache.state, "moving");
          if (bytesDone > 0) controller.abort();
        },
      }),
      "ABORTED",
    );
  };
  await abortInTheMiddle("sleep");
  assert.deepEqual(memory(), awake);
  for (const entry of filled) assertContent(entry, "after an aborted sleep");
  await allocator.sleep();
  const asleep = memory();
  await abortInTheMiddle("wakeUp");
  assert.deepEqual(memory(), asleep);
  setDelay(0);
  await allocator.wakeUp();
  assert.deepEqual(memory(), awake);
  for (const entry of filled) assertContent(entry, "after an aborted wake-up");
  await allocator.close();
}

/** Without a device, opening fails and leaves nothing half open. */
export async function noDevice(): Promise<void> {
  assert.equal(thrown(() => CaMemAllocator.getInstance()).code, "BACKEND_UNAVAILABLE");
}

/** Allocations and wake-ups beyond the free memory fail and change nothing. */
export async function shortDeviceMemory(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const { freeBytes, totalBytes } = allocator.memGetInfo();
  assert.equal(freeBytes, totalBytes);
  const filled = fill(allocator.malloc(totalBytes / 2, { tag: "weights" }));
  const before = memory();
  assert.equal(thrown(() => allocator.malloc(totalBytes / 2 + 1)).code, "OUT_OF_DEVICE_MEMORY");
  assert.deepEqual(memory(), before);
  await allocator.sleep();
  const blocker = allocator.malloc(totalBytes / 2 + 1);
  await assertRejects(allocator.wakeUp(), "OUT_OF_DEVICE_MEMORY");
  blocker.free();
  await allocator.wakeUp();
  assertContent(filled, "after device memory ran short");
  await allocator.close();
}
