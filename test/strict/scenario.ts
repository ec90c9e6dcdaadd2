/**
 * Run by strict.test.ts, one scenario a process, with CAMEM_ACL_LIBRARY naming the strict library: exercises camem and then
 * asserts that nothing of AscendCL is left or was misused.
 */

import { dlopen } from "bun:ffi";
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isMainThread } from "node:worker_threads";
import { CaMemAllocator, CamemError, type CamemErrorCode, type DeviceBuffer, loadSafetensors } from "camem";
import { checkpointOf } from "../support/checkpoint.ts";
import {
  assertNoMisuse,
  assertNothingAlive,
  assertNothingLeft,
  counts,
  host,
  memory,
  setDelay,
  setFaults,
} from "./library.ts";

const mebibyte = 1 << 20;

const { symbols: pluggable } = dlopen(
  join(import.meta.dir, "../../native", `linux-${process.arch}`, "libcamem.so"),
  {
    my_malloc: { args: ["i64", "i32", "ptr"], returns: "u64" },
    my_free: { args: ["u64", "i64", "i32", "ptr"], returns: "void" },
  },
);

/** Prime, so that no two pages or segments begin with the same bytes. */
const patternPeriod = 65_521;

/** Bytes that tell their place and their buffer apart. */
function pattern(sizeBytes: number, seed: number): Uint8Array {
  const period = new Uint8Array(patternPeriod);
  let state = seed;
  for (let index = 0; index < period.length; index++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    period[index] = state >>> 24;
  }
  return Buffer.alloc(sizeBytes, period);
}

interface Filled {
  readonly buffer: DeviceBuffer;
  readonly bytes: Uint8Array;
  readonly ptr: number;
}

let seeds = 0;

function fill(buffer: DeviceBuffer): Filled {
  const bytes = pattern(buffer.sizeBytes, ++seeds);
  buffer.write(bytes);
  return { buffer, bytes, ptr: buffer.ptr };
}

function assertContent({ buffer, bytes, ptr }: Filled, when: string): void {
  assert.equal(buffer.ptr, ptr, `${buffer.tag} moved ${when}`);
  const found = buffer.read();
  if (Buffer.compare(found, bytes) === 0) return;
  const different = found.findIndex((byte, index) => byte !== bytes[index]);
  assert.fail(`byte ${different} of ${buffer.tag} on device ${buffer.device} differs ${when}`);
}

async function rejection(promise: Promise<unknown>): Promise<CamemError> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  assert(outcome instanceof CamemError, `expected a CamemError, got ${outcome}`);
  return outcome;
}

function thrown(call: () => unknown): CamemError {
  try {
    call();
  } catch (error) {
    if (error instanceof CamemError) return error;
    throw error;
  }
  return assert.fail("expected a CamemError");
}

async function assertRejects(promise: Promise<unknown>, code: CamemErrorCode): Promise<CamemError> {
  const error = await rejection(promise);
  assert.equal(error.code, code, error.message);
  return error;
}

/** Everything in one: two devices, tags, pools, levels, partial wakes, native allocations, freeing at every time. */
async function life(): Promise<void> {
  const allocator = CaMemAllocator.getInstance({ poolSegment: "4MiB" });
  const devices = [0, 1];
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
  const other = fill(allocator.malloc(2 * mebibyte + 1, { tag: "adapter", device: 1 }));
  const keeps = [...weights, ...pooled];
  const assertAll = (when: string) => {
    for (const filled of [...keeps, persistent]) assertContent(filled, when);
  };
  assertAll("after writing");

  // Parts of buffers, and nothing beyond their size.
  const part = allocator.malloc(10_000, { tag: "weights" });
  part.fill(7);
  part.write(new Uint8Array([1, 2, 3]), 9_997);
  part.write(new Uint8Array(0), 10_000);
  assert.deepEqual([...part.read(9_995)], [7, 7, 1, 2, 3]);
  assert.equal(thrown(() => part.write(new Uint8Array(2), 9_999)).code, "OUT_OF_BOUNDS");
  part.free();

  // A kernel's or copy's work that is still queued is part of what a sleep keeps, on each device.
  const queued = devices.map((device) => {
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
    return { device, stream, source, target };
  });
  const before = memory();
  assert.equal(before.queuedCopies, 2);
  const report = await allocator.sleep();
  assert.equal(memory().queuedCopies, 0);
  assert(report.freedBytes > 0);
  assert.equal(memory().physicalBytes, report.keptBytes);
  assert.equal(memory().reservations, before.reservations);
  await allocator.wakeUp();
  assertAll("after level 1");
  other.buffer.write(other.bytes);
  for (const { device, stream, source } of queued) {
    const context = host.currentContext();
    host.setDevice(device);
    host.destroyStream(stream);
    host.freeHost(source.address);
    if (context !== undefined) host.setCurrentContext(context);
    // Once for each time it was set.
    host.resetDevice(device);
    host.resetDevice(device);
  }

  // Partial: tags go and come one by one.
  await allocator.sleep({ tags: ["kv_cache"] });
  assertAll("while the cache sleeps");
  await allocator.sleep({ offloadTags: ["weights", "adapter"] });
  assert.equal(thrown(() => weights[0]?.buffer.read()).code, "BUFFER_ASLEEP");
  assertContent(persistent, "while all else sleeps");
  await allocator.wakeUp({ tags: ["weights"] });
  assertAll("after a partial wake");
  assert.equal(other.buffer.state, "offloaded");
  assert((await allocator.sleep({ tags: ["weights"] })).offloadedBytes > 0);
  await allocator.wakeUp();
  assertAll("after waking the rest");
  assertContent(other, "after offloadTags");

  // Level 2 keeps only what the policy says; a deeper sleep drops backups of a lighter one.
  allocator.defineTag("adapter", { 1: "keep", 2: "offload" });
  await allocator.sleep({ level: 1 });
  assertContent(other, "kept at level 1");
  await allocator.sleep({ level: 2 });
  assert.equal(memory().hostBytes, 4 * mebibyte);
  await allocator.wakeUp();
  assertContent(other, "after level 2");
  assertContent(persistent, "after level 2");
  for (const { buffer, bytes } of [...keeps, ...caches]) buffer.write(bytes);
  assertAll("after loading again");

  // Freed asleep, freed while moving, and with work still queued on it.
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

  // A native engine's allocations sleep with the rest.
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

  for (const { buffer } of pooled.slice(0, 5)) buffer.free();
  await allocator.close();
  assert.equal(Number(pluggable.my_malloc(1, 0, null)), 0);
}

/** Opened and closed again and again; asleep and awake at the time of closing; closed in the middle of a sleep. */
async function reopen(): Promise<void> {
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

/** Aborted before, while waiting for the device and in the middle of the copies, asleep and awake. */
async function abort(): Promise<void> {
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

/** The failures that peers get wrong: each undone, reported with call and code, and the same call made again. */
async function failures(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const filled = [0, 1, 0, 1].map((device) =>
    fill(allocator.malloc(3 * mebibyte + 1, { tag: "weights", device })),
  );
  const assertFails = async (transition: "sleep" | "wakeUp", fault: string, code: CamemErrorCode) => {
    const before = memory();
    setFaults(fault);
    const error = await assertRejects(allocator[transition](), code);
    setFaults();
    const [call, acl] = fault.split(/:.*=/);
    assert.equal(error.call, call);
    assert.equal(error.aclCode, Number(acl));
    assert.deepEqual(memory(), before, `after ${fault}`);
    if (transition === "sleep") for (const entry of filled) assertContent(entry, `after ${fault}`);
    assertNoMisuse(`after ${fault}`);
  };
  // Of the first device to fail there is always another one to create; the other device creates its own meanwhile.
  for (let attempt = 0; attempt < 3; attempt++)
    await assertFails("sleep", "aclrtCreateStream:1=207008", "ACL_CALL_FAILED");
  for (let round = 0; round < 2; round++) {
    for (const fault of [
      "aclrtMallocHost:2=207001",
      "aclrtMemcpyAsync:3=507899",
      "aclrtSynchronizeStream:1=507013",
      "aclrtSynchronizeStream:2=507013",
      "aclrtUnmapMem:1=507899",
      "aclrtUnmapMem:4=507899",
    ]) {
      await assertFails("sleep", fault, fault.includes("207001") ? "OUT_OF_HOST_MEMORY" : codeOf(fault));
    }
    await allocator.sleep();
    for (const fault of [
      "aclrtMallocPhysical:3=207001",
      "aclrtMallocPhysical:1=507899",
      "aclrtMapMem:4=507899",
      "aclrtMemcpyAsync:2=507899",
      "aclrtSynchronizeStream:1=507013",
      "aclrtSynchronizeStream:2=507010",
    ]) {
      await assertFails("wakeUp", fault, fault.includes("207001") ? "OUT_OF_DEVICE_MEMORY" : codeOf(fault));
    }
    await allocator.wakeUp();
    for (const entry of filled) assertContent(entry, "after the retry");
  }
  await allocator.close();
}

function codeOf(fault: string): CamemErrorCode {
  return fault.endsWith("=507010") || fault.endsWith("=507013") ? "DEVICE_LOST" : "ACL_CALL_FAILED";
}

const sweepCodes = [507899, 207001, 507010];

/** Calls `attempt` with a fault at its first, second, … AscendCL call, until no fault is met any more. */
async function sweep(
  faultAt: (number: number) => string,
  attempt: (name: string) => Promise<unknown>,
  check: (error: CamemError | undefined, name: string) => Promise<void>,
): Promise<void> {
  for (let number = 1; ; number++) {
    const name = faultAt(number);
    setFaults(name);
    const error = await attempt(name).then(
      () => undefined,
      (caught: unknown) => caught,
    );
    const met = counts().calls >= number;
    setFaults();
    if (error !== undefined && !(error instanceof CamemError)) throw error;
    try {
      if (!met) assert.equal(error, undefined);
      await check(error, name);
      assertNoMisuse(`with ${name}`);
    } catch (cause) {
      throw new Error(`with the fault ${name} (${error?.message ?? "no error"}): ${cause}`, { cause });
    }
    if (!met) return;
  }
}

function smallModel(allocator: CaMemAllocator) {
  const first = allocator.malloc(mebibyte, { tag: "kv_cache" });
  const keeps = [0, 1, 0].map((device, index) =>
    fill(allocator.malloc(2 * mebibyte * (index % 2) + 100 + index, { tag: "weights", device })),
  );
  keeps.push(fill(allocator.memoryPool("weights").malloc(77)));
  const cache = allocator.malloc(mebibyte, { tag: "kv_cache", device: 1 });
  const buffers = [first, ...keeps.map(({ buffer }) => buffer), cache];
  return { keeps, buffers };
}

/** Every single AscendCL call of a sleep, of a wake-up and of the rest fails once. */
async function everyCallOnce(): Promise<void> {
  for (const code of sweepCodes) {
    const once = (number: number) => `*:${number}=${code}`;
    await sweep(once, attachAndClose, async (error) => {
      // Closing may have failed: then it can be called again.
      if (error !== undefined) await CaMemAllocator.getInstance().close();
      assertNothingLeft();
    });
    const allocator = CaMemAllocator.getInstance({ poolSegment: "2MiB" });
    const { keeps, buffers } = smallModel(allocator);
    const awake = memory();
    const assertAwake = () => {
      assert.deepEqual(
        buffers.map(({ state }) => state),
        buffers.map(() => "mapped"),
      );
      assert.deepEqual(memory(), awake);
      for (const entry of keeps) assertContent(entry, "after a fault");
    };
    await sweep(
      once,
      () => allocator.sleep(),
      async (error) => {
        if (error !== undefined && !error.transitionComplete) assertAwake();
        await allocator.sleep();
        assert.equal(memory().physicalBytes, 0);
        await allocator.wakeUp();
        assertAwake();
      },
    );
    await allocator.sleep();
    const asleep = memory();
    await sweep(
      once,
      () => allocator.wakeUp(),
      async (error) => {
        if (error !== undefined && !error.transitionComplete) {
          assert.deepEqual(memory(), asleep);
          await allocator.wakeUp();
        }
        for (const entry of keeps) assertContent(entry, "after a wake-up");
        await allocator.sleep();
        // A block that could not be given back is used again, so that there may be more and smaller ones.
        assert.deepEqual({ ...memory(), hostBlocks: 0 }, { ...asleep, hostBlocks: 0 });
      },
    );
    await allocator.wakeUp();
    assertAwake();
    let extra: DeviceBuffer | undefined;
    await sweep(
      once,
      async () => {
        extra = undefined;
        extra = allocator.malloc(mebibyte, { device: 1 });
      },
      async () => {
        extra?.free();
        assert.deepEqual(memory(), awake);
      },
    );
    for (const state of ["awake", "asleep"]) {
      await sweep(
        once,
        async (name) => {
          setFaults();
          extra = allocator.malloc(mebibyte, { device: 1, tag: "weights" });
          if (state === "asleep") await allocator.sleep();
          setFaults(name);
          extra.free();
        },
        async (error) => {
          if (error !== undefined) extra?.free();
          if (state === "asleep") await allocator.wakeUp();
          assertAwake();
        },
      );
    }
    await allocator.close();
    assertNothingLeft();
  }
}

async function attachAndClose(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  allocator.malloc(100, { tag: "weights", device: 1 });
  await allocator.sleep();
  await allocator.close();
}

const tries = 3;

/** Calls between two faults; no undoing of the small model is longer. */
const longestDistance = 20;

/** By then a transition of small memory has ended, or it never will. */
const settleMs = 5000;

/** Repeats a call that may have to give back first what an earlier one could not. */
async function eventually(call: () => Promise<unknown>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await call();
      return;
    } catch (error) {
      if (attempt === tries) throw error;
    }
  }
}

const sleepOrGiveUp = (allocator: CaMemAllocator) =>
  allocator.sleep({ signal: AbortSignal.timeout(settleMs) });
const wakeOrGiveUp = (allocator: CaMemAllocator) =>
  allocator.wakeUp({ signal: AbortSignal.timeout(settleMs) });

/** Whatever failed before, a sleep gives all device memory back and a wake-up brings the content back. */
async function assertRecovers(
  allocator: CaMemAllocator,
  keeps: readonly Filled[],
  when: string,
): Promise<void> {
  await eventually(() => sleepOrGiveUp(allocator));
  assert.equal(memory().physicalBytes, 0, "device memory after a sleep");
  await eventually(() => wakeOrGiveUp(allocator));
  for (const entry of keeps) assertContent(entry, when);
}

/** Sweeps `faultAt` over a sleep and over a wake-up. */
async function sweepTransitions(
  allocator: CaMemAllocator,
  keeps: readonly Filled[],
  faultAt: (number: number) => string,
) {
  const awake = memory();
  for (const transition of ["sleep", "wakeUp"] as const) {
    await sweep(
      faultAt,
      async (name) => {
        setFaults();
        if (transition === "wakeUp") await sleepOrGiveUp(allocator);
        setFaults(name);
        await allocator[transition]();
      },
      async () => {
        await assertRecovers(allocator, keeps, `after a failed ${transition}`);
        assert.deepEqual(memory(), awake);
      },
    );
  }
}

/** From one call on every call fails, undoing included; afterwards the device is back, and so must be the content. */
async function everyCallFromThenOn(): Promise<void> {
  for (const code of [...sweepCodes, 207020]) {
    const allocator = CaMemAllocator.getInstance({ poolSegment: "2MiB" });
    const { keeps } = smallModel(allocator);
    await sweepTransitions(allocator, keeps, (number) => `*:${number}+=${code}`);
    await allocator.close();
    assertNothingLeft();
  }
}

/** One call fails, and later another, such as one of those that undo the first. */
async function everyTwoCalls(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const filled = [0, 1].map((device) => fill(allocator.malloc(100, { tag: "weights", device })));
  allocator.malloc(100, { tag: "kv_cache" });
  for (let distance = 1; distance <= longestDistance; distance++) {
    const faultAt = (number: number) => `*:${number}=507899,*:${number + distance}=507899`;
    await sweepTransitions(allocator, filled, faultAt);
  }
  await allocator.close();
}

/** An engine that owns AscendCL and a context of its own before camem comes, with or without a configuration file. */
async function guest(configuration?: string): Promise<void> {
  assert.equal(host.init(configuration), 0);
  host.setDevice(0);
  const context = host.createContext(0);
  const stream = host.createStream();
  const before = counts();
  const assertUntouched = (when: string) =>
    assert.equal(host.currentContext(), context, `the current context changed ${when}`);
  for (let round = 0; round < 2; round++) {
    const allocator = CaMemAllocator.getInstance();
    assertUntouched("by attaching");
    const filled = [0, 1].map((device) =>
      fill(allocator.malloc(2 * mebibyte + 3, { tag: "weights", device })),
    );
    assertUntouched("by allocating");
    const source = host.mallocHost(100);
    const target = filled[0];
    assert(target);
    target.bytes.fill(9, 0, 100);
    source.bytes.fill(9);
    host.queueToDevice(target.ptr, source.address, 100, stream);
    allocator.memGetInfo(1);
    await allocator.sleep();
    assertUntouched("by sleeping");
    await allocator.wakeUp();
    for (const entry of filled) assertContent(entry, "with a host engine");
    host.freeHost(source.address);
    for (const call of ["aclrtMapMem", "aclrtMallocPhysical", "aclrtReserveMemAddress"]) {
      setFaults(`${call}:1=507899`);
      assert.equal(thrown(() => allocator.malloc(1, { device: 1 })).call, call);
      setFaults();
      assertUntouched("by a failed allocation");
    }
    const address = Number(pluggable.my_malloc(1000, 1, null));
    pluggable.my_free(address, 1000, 1, null);
    filled[1]?.buffer.free();
    assertUntouched("by freeing");
    await allocator.close();
    assertUntouched("by closing");
    assert.deepEqual({ ...counts(), calls: 0 }, { ...before, calls: 0 });
  }
  host.synchronizeStream(stream);
  host.destroyStream(stream);
  host.destroyContext(context);
  host.resetDevice(0);
  host.finalize();
}

/** An engine that comes while camem is attached and stays longer. */
async function hostComesLater(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const filled = fill(allocator.malloc(5, { tag: "weights" }));
  assert.equal(host.init(), 100002);
  host.setDevice(1);
  const context = host.createContext(1);
  await allocator.sleep();
  await allocator.wakeUp();
  assertContent(filled, "beside an engine that came later");
  await allocator.close();
  assert.equal(host.currentContext(), context);
  assert.equal(counts().initReferences, 1);
  const stream = host.createStream();
  host.destroyStream(stream);
  host.destroyContext(context);
  host.resetDevice(1);
  host.finalizeReference();
}

/** A native thread allocates and frees on both devices while everything falls asleep and wakes. */
async function threads(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const { keeps } = smallModel(allocator);
  const worker = new Worker(import.meta.path, { env: process.env as Record<string, string> });
  let ended = false;
  worker.onmessage = () => {
    ended = true;
  };
  while (!ended) {
    await allocator.sleep();
    await allocator.wakeUp();
    for (const entry of keeps) assertContent(entry, "beside another thread");
  }
  worker.terminate();
  await allocator.close();
}

const workerRounds = 300;

async function allocateOnAnotherThread(): Promise<void> {
  const held: { address: number; device: number }[] = [];
  for (let round = 0; round < workerRounds; round++) {
    const device = round % 2;
    const address = Number(pluggable.my_malloc(1 + (round % 3) * mebibyte, device, null));
    assert(address > 0);
    held.push({ address, device });
    const oldest = held.length > 3 ? held.shift() : undefined;
    if (oldest) pluggable.my_free(oldest.address, 1, oldest.device, null);
    if (round % 10 === 0) await Bun.sleep(1);
  }
  for (const { address, device } of held) pluggable.my_free(address, 1, device, null);
  postMessage("ended");
}

/** Synchronise calls return these beside work that is done (an earlier kernel's numeric overflow and the like). */
async function notices(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const { keeps } = smallModel(allocator);
  for (const code of [207003, 207016, 207017, 507005, 507023]) {
    for (const call of ["aclrtSynchronizeDeviceWithTimeout", "aclrtSynchronizeStream"]) {
      setFaults(`${call}:1=${code}`);
      await allocator.sleep();
      setFaults(`${call}:1=${code}`);
      await allocator.wakeUp();
      setFaults();
      for (const entry of keeps) assertContent(entry, `with the notice ${code} of ${call}`);
    }
  }
  await allocator.close();
}

/** Waiting for the copies fails again and again while they go on: their memory must stay until they have ended. */
async function waitingFails(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const { keeps } = smallModel(allocator);
  for (const transition of ["sleep", "wakeUp"] as const) {
    setFaults("aclrtSynchronizeStream:1+=207020");
    await rejection(allocator[transition]());
    setFaults();
    assertNoMisuse(`with copies still running after a failed ${transition}`);
    await eventually(() => allocator[transition]());
  }
  for (const entry of keeps) assertContent(entry, "after waiting failed");
  await allocator.close();
}

/** A checkpoint of one tensor, in a folder of its own, and its content. */
function writeCheckpoint(sizeBytes: number): { path: string; bytes: Uint8Array; folder: string } {
  const folder = mkdtempSync(join(tmpdir(), "camem-strict-checkpoint-"));
  const bytes = pattern(sizeBytes, ++seeds);
  const path = join(folder, "model.safetensors");
  writeFileSync(path, checkpointOf({ tensor: bytes }));
  return { path, bytes, folder };
}

/** Several times what staging holds, so that every part of it is used again; queued copies run as late as the rules allow. */
async function files(): Promise<void> {
  const checkpoint = writeCheckpoint(90 * mebibyte + 5);
  const allocator = CaMemAllocator.getInstance({ hostBudget: 0, spillDir: checkpoint.folder, verify: true });
  const tensors = await loadSafetensors(checkpoint.path, { allocator, tag: "weights", backing: "file" });
  const buffer = tensors.get("tensor")?.buffer;
  assert(buffer);
  const loaded = { buffer, bytes: checkpoint.bytes, ptr: buffer.ptr };
  const spilled = [70 * mebibyte + 1, 5000].map((size) => fill(allocator.malloc(size, { tag: "buffers" })));
  allocator.defineTag("buffers", { immutable: true });
  for (const round of ["once", "twice"]) {
    await allocator.sleep();
    assert.equal(memory().physicalBytes, 0);
    await allocator.wakeUp();
    for (const entry of [loaded, ...spilled]) assertContent(entry, `after sleeping ${round}`);
    assertNoMisuse(`after sleeping ${round}`);
  }
  await allocator.close();
  rmSync(checkpoint.folder, { recursive: true });
}

/** Neither the streams nor the device can be waited for while copies go on: what they use stays until they have ended. */
async function waitingFailsWithFiles(): Promise<void> {
  const checkpoint = writeCheckpoint(5 * mebibyte);
  const { path, folder } = checkpoint;
  for (const then of ["again", "deeper", "free", "markDirty", "close"] as const) {
    const allocator = CaMemAllocator.getInstance({ hostBudget: 2 * mebibyte, spillDir: folder });
    const tensors = await loadSafetensors(path, { allocator, tag: "weights", backing: "file" });
    const buffer = tensors.get("tensor")?.buffer;
    assert(buffer);
    const loaded = { buffer, bytes: checkpoint.bytes, ptr: buffer.ptr };
    const others = [3 * mebibyte, 5000].map((size) => fill(allocator.malloc(size, { tag: "buffers" })));
    for (const transition of ["sleep", "wakeUp"] as const) {
      setFaults("aclrtSynchronizeStream:1+=207020,aclrtSynchronizeDevice:1+=207020");
      await rejection(allocator[transition]());
      setFaults();
      const when = `after a ${transition} whose copies could not be waited for, then ${then}`;
      assertNoMisuse(when);
      if (then === "close") break;
      if (then === "free") for (const each of [loaded, ...others]) each.buffer.free();
      if (then === "markDirty" && transition === "sleep") allocator.markDirty("buffers");
      if (then === "deeper") await allocator.sleep({ level: 2, tags: ["weights"] });
      if (then === "free" || then === "deeper") break;
      await allocator[transition]();
      assertNoMisuse(when);
    }
    if (then === "again" || then === "markDirty")
      for (const entry of [loaded, ...others]) assertContent(entry, "after waiting failed");
    await allocator.close();
    assertNothingLeft();
  }
  rmSync(folder, { recursive: true });
}

/** Where undoing a sleep fails too, the next sleep still ends, and gives all device memory back. */
async function undoingFails(): Promise<void> {
  for (const tag of ["weights", "kv_cache"]) {
    for (const level of [1, 2] as const) {
      const allocator = CaMemAllocator.getInstance();
      const first = fill(allocator.malloc(100, { tag }));
      const second = fill(allocator.malloc(100, { tag: "weights", device: 1 }));
      setFaults("aclrtUnmapMem:2=507899,aclrtMapMem:1=507899");
      await rejection(allocator.sleep({ level }));
      setFaults();
      const when = `after undoing failed for ${tag} at level ${level}`;
      await allocator.sleep({ level, signal: AbortSignal.timeout(settleMs) });
      assert.equal(memory().physicalBytes, 0, `device memory ${when}`);
      await allocator.wakeUp();
      if (level === 1)
        for (const entry of tag === "weights" ? [first, second] : [second]) assertContent(entry, when);
      await allocator.close();
      assertNothingLeft();
    }
  }
}

/** An engine that resets the device more often than it set it, as aclrtResetDeviceForce does, takes camem's hold with it. */
async function hostResetsAll(): Promise<void> {
  assert.equal(host.init(), 0);
  host.setDevice(0);
  const allocator = CaMemAllocator.getInstance();
  allocator.malloc(100).free();
  host.resetDevice(0);
  host.resetDevice(0);
  await allocator.close();
  host.finalizeReference();
}

/** Only 107002 says that a thread has no current context. */
async function contextQueryFails(): Promise<void> {
  assert.equal(host.init(), 0);
  host.setDevice(0);
  const context = host.createContext(0);
  const allocator = CaMemAllocator.getInstance();
  const filled = fill(allocator.malloc(100));
  setFaults("aclrtGetCurrentContext:1=507000");
  assert.equal(thrown(() => filled.buffer.read()).aclCode, 507000);
  setFaults();
  assert.equal(host.currentContext(), context);
  await allocator.close();
  host.destroyContext(context);
  host.resetDevice(0);
  host.finalizeReference();
}

/** Waits until what could not be given back at first has been given back. */
async function assertReleased(reservations: number): Promise<void> {
  for (let waitedMs = 0; memory().reservations > reservations; waitedMs++) {
    assert(waitedMs < settleMs, "an address is not released");
    await Bun.sleep(1);
  }
}

/** A buffer whose memory is gone refuses everything, whoever has its address by now. */
function assertFreed(buffer: DeviceBuffer, code: CamemErrorCode): void {
  const before = memory();
  const byte = new Uint8Array(1);
  assert.equal(buffer.state, "freed");
  const uses = [
    () => buffer.write(byte),
    () => buffer.read(0, 1),
    () => buffer.readInto(byte),
    () => buffer.fill(9),
  ];
  for (const use of uses) assert.equal(thrown(use).code, code);
  buffer[Symbol.dispose]();
  assert.deepEqual(memory(), before);
}

/** The calls of a free, each of which may fail; a later plan makes them again. */
const freeFaults = [
  { state: "mapped", call: "aclrtSynchronizeDeviceWithTimeout" },
  { state: "mapped", call: "aclrtUnmapMem" },
  { state: "mapped", call: "aclrtFreePhysical" },
  { state: "mapped", call: "aclrtReleaseMemAddress" },
  { state: "offloaded", call: "aclrtReleaseMemAddress" },
] as const;

/** A segment of its own, and a part of a pool's segment. */
const allocations: Record<string, (allocator: CaMemAllocator) => DeviceBuffer> = {
  buffer: (allocator) => allocator.malloc(2 * mebibyte, { tag: "weights" }),
  "pool's buffer": (allocator) => allocator.memoryPool("weights").malloc(mebibyte),
};

const openForReuse = () => CaMemAllocator.getInstance({ poolSegment: "2MiB" });

/** Buffers and backups of memory that is gone, while another buffer has its address: none ever reaches into that one. */
async function reusedAddresses(): Promise<void> {
  const allocator = openForReuse();
  for (const [kind, allocate] of Object.entries(allocations)) {
    for (const { state, call } of freeFaults) {
      const when = `after ${call} failed for a ${kind} that was ${state}`;
      const old = fill(allocate(allocator));
      const neighbour = allocator.malloc(100, { tag: "kv_cache" });
      await allocator.sleep();
      const backup = allocator.backup("weights")[0];
      if (state === "mapped") await allocator.wakeUp();
      const before = memory().reservations;
      setFaults(`${call}:1=507899`);
      assert.equal(thrown(() => old.buffer.free()).call, call);
      setFaults();
      assert.equal(old.buffer.state, "freed", when);
      assert.equal(memory().reservations, before, when);
      await allocator[state === "mapped" ? "sleep" : "wakeUp"]();
      await assertReleased(before - 1);
      await allocator.wakeUp();

      const other = fill(allocate(allocator));
      assert.equal(other.ptr, old.ptr, `the address was not given out again ${when}`);
      assertFreed(old.buffer, "BUFFER_FREED");
      await allocator.sleep();
      assertFreed(old.buffer, "BUFFER_FREED");
      assert(backup);
      assert.equal(thrown(() => backup.read(0, 1)).code, "BUFFER_FREED");
      const otherBackup = allocator.backup("weights")[0];
      assert(otherBackup);
      assert.equal(Buffer.compare(otherBackup.read(0, other.bytes.length), other.bytes), 0, when);
      // The free that failed may be made again: it finds nothing left to do.
      old.buffer.free();
      assert.equal(thrown(() => old.buffer.free()).code, "BUFFER_FREED");
      assert.equal(other.buffer.state, "offloaded", when);
      await allocator.wakeUp();
      assertFreed(old.buffer, "BUFFER_FREED");
      assertContent(other, when);
      other.buffer.free();
      neighbour.free();
      assert.equal(memory().reservations, 0, when);
    }
  }
  await allocator.close();
}

/** The same for memory that was freed while a plan moved it. */
async function reusedAfterMoving(): Promise<void> {
  const allocator = openForReuse();
  for (const [kind, allocate] of Object.entries(allocations)) {
    const old = allocate(allocator);
    setDelay(20);
    const sleeping = allocator.sleep();
    while (old.state !== "moving") await Bun.sleep(1);
    old.free();
    assertFreed(old, "BUFFER_FREED");
    await sleeping;
    setDelay(0);
    await assertReleased(0);
    const other = fill(allocate(allocator));
    assert.equal(other.ptr, old.ptr, `the address of the ${kind} was not given out again`);
    assertFreed(old, "BUFFER_FREED");
    assert.equal(thrown(() => old.free()).code, "BUFFER_FREED");
    assertContent(other, `after the ${kind} before it was freed while moving`);
    other.buffer.free();
  }
  await allocator.close();
}

/** The same for buffers of an allocator whose closing failed, while it is half closed and once it is open again. */
async function reusedAfterFailedClose(): Promise<void> {
  for (const [kind, allocate] of Object.entries(allocations)) {
    for (const call of [
      "aclrtUnmapMem",
      "aclrtReleaseMemAddress",
      "aclrtResetDevice",
      "aclFinalizeReference",
    ]) {
      const when = `for a ${kind} after ${call} failed in closing`;
      const first = openForReuse();
      const old = fill(allocate(first));
      await first.sleep();
      const backup = first.backup("weights")[0];
      await first.wakeUp();
      assert(backup);
      const assertOldRefused = () => {
        assertFreed(old.buffer, "CLOSED");
        assert.equal(thrown(() => old.buffer.free()).code, "CLOSED");
        assert.equal(thrown(() => backup.read(0, 1)).code, "CLOSED");
      };
      setFaults(`${call}:1=507899`);
      assert.equal((await rejection(first.close())).call, call);
      setFaults();
      assertOldRefused();
      if (memory().reservations === 0) {
        // A native engine may still allocate, and gets the address.
        const address = Number(pluggable.my_malloc(2 * mebibyte, 0, null));
        assert.equal(address, old.ptr, `the address was not given out again ${when}`);
        assertOldRefused();
        pluggable.my_free(address, 2 * mebibyte, 0, null);
      }
      await first.close();
      const second = openForReuse();
      assertOldRefused();
      const other = fill(allocate(second));
      assert.equal(other.ptr, old.ptr, `the address was not given out again ${when}`);
      assertOldRefused();
      assertContent(other, when);
      await second.sleep();
      assertOldRefused();
      await second.wakeUp();
      assertContent(other, when);
      await second.close();
      assertNothingLeft();
    }
  }
}

/** Two devices closed and opened again and again, by threads that had no context and keep a dead one where that is so. */
async function staleContexts(): Promise<void> {
  const visitor = new Worker(import.meta.path, {
    env: { ...process.env, STRICT_WORKER: "visitor" } as Record<string, string>,
  });
  const visit = () =>
    new Promise((resolve, reject) => {
      visitor.onmessage = resolve;
      visitor.onerror = reject;
      visitor.postMessage("");
    });
  for (let round = 0; round < 4; round++) {
    const allocator = CaMemAllocator.getInstance();
    // The device that is used first is another each time, and in the last round one is not used at all.
    const devices = round === 3 ? [1] : round % 2 === 0 ? [0, 1] : [1, 0];
    const filled = devices.map((device) => fill(allocator.malloc(mebibyte, { tag: "weights", device })));
    for (const device of devices) allocator.memGetInfo(device);
    await visit();
    await allocator.sleep();
    await visit();
    if (round % 2 === 0) {
      await allocator.wakeUp();
      for (const entry of filled) assertContent(entry, `in round ${round}`);
    }
    await allocator.close();
    assertNothingLeft();
  }
  visitor.terminate();
}

/** A native thread that lives longer than any session, and allocates on both devices whenever it is told to. */
function visit(): void {
  addEventListener("message", () => {
    for (const device of [1, 0, 1]) {
      const address = Number(pluggable.my_malloc(mebibyte, device, null));
      assert(address > 0);
      pluggable.my_free(address, mebibyte, device, null);
    }
    postMessage("visited");
  });
}

/** Without a device nothing is left half open. */
async function noDevice(): Promise<void> {
  assert.equal(thrown(() => CaMemAllocator.getInstance()).code, "BACKEND_UNAVAILABLE");
}

/** More than fits, from the device's own numbers and from a refusal. */
async function tooLittle(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const { freeBytes, totalBytes } = allocator.memGetInfo();
  assert.equal(freeBytes, totalBytes);
  const filled = fill(allocator.malloc(totalBytes / 2, { tag: "weights" }));
  const before = memory();
  assert.equal(thrown(() => allocator.malloc(totalBytes / 2 + 1)).code, "OUT_OF_DEVICE_MEMORY");
  assert.deepEqual(memory(), before);
  await allocator.sleep();
  const guestMemory = allocator.malloc(totalBytes / 2 + 1);
  await assertRejects(allocator.wakeUp(), "OUT_OF_DEVICE_MEMORY");
  guestMemory.free();
  await allocator.wakeUp();
  assertContent(filled, "after memory was short");
  await allocator.close();
}

const scenarios: Record<string, () => Promise<void>> = {
  life,
  reopen,
  abort,
  failures,
  everyCallOnce,
  everyCallFromThenOn,
  everyTwoCalls,
  guest: () => guest(),
  guestWithConfiguration: () => guest(process.env["STRICT_CONFIGURATION"]),
  hostComesLater,
  threads,
  notices,
  files,
  waitingFails,
  waitingFailsWithFiles,
  undoingFails,
  hostResetsAll,
  contextQueryFails,
  reusedAddresses,
  reusedAfterMoving,
  reusedAfterFailedClose,
  staleContexts,
  noDevice,
  tooLittle,
};

/** Here the host breaks the rules, so that camem's calls may be refused; yet nothing may be left. */
const misusedByTheHost = new Set(["hostResetsAll"]);

if (isMainThread) {
  const name = process.argv[2] ?? "";
  const scenario = scenarios[name];
  if (scenario === undefined) throw new Error(`there is no scenario ${name}`);
  await scenario();
  if (!misusedByTheHost.has(name)) assertNoMisuse();
  assertNothingAlive();
} else if (process.env["STRICT_WORKER"] === "visitor") {
  visit();
} else {
  await allocateOnAnotherThread();
}
