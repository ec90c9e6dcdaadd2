/** Scenarios with a host engine in the same process, which owns AscendCL or a part of it. */

import assert from "node:assert/strict";
import { CaMemAllocator } from "camem";
import { counts, host, setFaults } from "../strict-runtime.ts";
import { assertContent, fill, mebibyte, pluggable, thrown } from "./buffers.ts";

/** A host engine initialises AscendCL and creates a context before camem attaches, with or without a configuration file. */
export async function hostEngineFirst(configuration?: string): Promise<void> {
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

/** A host engine starts while camem is attached and outlives it. */
export async function hostEngineLater(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const filled = fill(allocator.malloc(5, { tag: "weights" }));
  assert.equal(host.init(), 100002);
  host.setDevice(1);
  const context = host.createContext(1);
  await allocator.sleep();
  await allocator.wakeUp();
  assertContent(filled, "beside a host engine that started later");
  await allocator.close();
  assert.equal(host.currentContext(), context);
  assert.equal(counts().initReferences, 1);
  const stream = host.createStream();
  host.destroyStream(stream);
  host.destroyContext(context);
  host.resetDevice(1);
  host.finalizeReference();
}

/** A host engine resets the device more often than it set it, which drops camem's reference too. */
export async function hostEngineResetsDevice(): Promise<void> {
  assert.equal(host.init(), 0);
  host.setDevice(0);
  const allocator = CaMemAllocator.getInstance();
  allocator.malloc(100).free();
  host.resetDevice(0);
  host.resetDevice(0);
  await allocator.close();
  host.finalizeReference();
}

/** Only the code 107002 means that a thread has no current context. */
export async function contextQueryFails(): Promise<void> {
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

/** Once, AscendCL says of a living context that it is none. The device is not lost. */
export async function contextRefusedOnce(): Promise<void> {
  assert.equal(host.init(), 0);
  host.setDevice(0);
  const context = host.createContext(0);
  const allocator = CaMemAllocator.getInstance();
  const filled = [0, 1].map((device) => fill(allocator.malloc(100, { tag: "weights", device })));
  for (const entry of filled) {
    setFaults("aclrtSetCurrentContext:1=107000");
    assertContent(entry, "while a context is refused");
    setFaults();
    assert.equal(host.currentContext(), context);
  }
  await allocator.sleep();
  await allocator.wakeUp();
  for (const entry of filled) assertContent(entry, "after a context was refused");
  await allocator.close();
  host.destroyContext(context);
  host.resetDevice(0);
  host.finalizeReference();
}

/** A host engine takes over the primary context that an earlier session left current, and ends it later. */
export async function primaryContextOutlivesSession(): Promise<void> {
  assert.equal(host.init(), 0);
  const first = CaMemAllocator.getInstance();
  first.malloc(100);
  host.setDevice(0);
  const context = host.currentContext();
  await first.close();
  const second = CaMemAllocator.getInstance();
  const filled = fill(second.malloc(100, { device: 1 }));
  assert.equal(host.currentContext(), context);
  assertContent(filled, "beside the context of the host engine");
  assert.equal(host.currentContext(), context);
  host.resetDevice(0);
  assertContent(filled, "after the host engine ended its context");
  await second.close();
  host.finalizeReference();
}
