/** Scenarios in which AscendCL calls fail, one by one, in pairs and from one call on. */

import assert from "node:assert/strict";
import { CaMemAllocator, CamemError, type CamemErrorCode, type DeviceBuffer } from "camem";
import { assertNoMisuse, assertNothingLeft, counts, memory, setFaults } from "../strict-runtime.ts";
import {
  assertContent,
  assertRejects,
  type Filled,
  fill,
  mebibyte,
  rejection,
  smallModel,
} from "./buffers.ts";

/** The retryAfterFailure that peers get wrong: each undone, reported with call and code, and the same call made again. */
export async function retryAfterFailure(): Promise<void> {
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
  // Each attempt fails at a stream that is still missing; the other device creates its own meanwhile.
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

const faultCodes = [507899, 207001, 507010];

/** Runs `attempt` with a fault at its first AscendCL call, then at its second, and so on until it ends without the fault. */
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
    const reached = counts().calls >= number;
    setFaults();
    if (error !== undefined && !(error instanceof CamemError)) throw error;
    try {
      if (!reached) assert.equal(error, undefined);
      await check(error, name);
      assertNoMisuse(`with ${name}`);
    } catch (cause) {
      throw new Error(`with the fault ${name} (${error?.message ?? "no error"}): ${cause}`, { cause });
    }
    if (!reached) return;
  }
}

/** A small model whose memory is awake, and what its device memory was then. */
class AwakeModel {
  readonly allocator = CaMemAllocator.getInstance({ poolSegment: "2MiB" });
  readonly awake: ReturnType<typeof memory>;
  readonly #model = smallModel(this.allocator);

  constructor() {
    this.awake = memory();
  }

  assertAwake(): void {
    const { buffers } = this.#model;
    assert.deepEqual(
      buffers.map(({ state }) => state),
      buffers.map(() => "mapped"),
    );
    assert.deepEqual(memory(), this.awake);
    this.assertContent("after a fault");
  }

  assertContent(when: string): void {
    for (const entry of this.#model.keeps) assertContent(entry, when);
    for (const buffer of this.#model.zero)
      assert(
        buffer.read().every((byte) => byte === 0),
        `${buffer.tag} is not zero ${when}`,
      );
  }
}

type FaultAt = (number: number) => string;

async function sweepSleep(once: FaultAt, model: AwakeModel): Promise<void> {
  await sweep(
    once,
    () => model.allocator.sleep(),
    async (error) => {
      if (error !== undefined && !error.transitionComplete) model.assertAwake();
      await model.allocator.sleep();
      assert.equal(memory().physicalBytes, 0);
      await model.allocator.wakeUp();
      model.assertAwake();
    },
  );
}

async function sweepWakeUp(once: FaultAt, model: AwakeModel): Promise<void> {
  const { allocator } = model;
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
      model.assertContent("after a wake-up");
      await allocator.sleep();
      // A block that could not be given back is used again, so that there may be more and smaller ones.
      assert.deepEqual({ ...memory(), hostBlocks: 0 }, { ...asleep, hostBlocks: 0 });
    },
  );
  await allocator.wakeUp();
  model.assertAwake();
}

async function sweepMallocAndFree(once: FaultAt, model: AwakeModel): Promise<void> {
  const { allocator } = model;
  let extra: DeviceBuffer | undefined;
  await sweep(
    once,
    async () => {
      extra = undefined;
      extra = allocator.malloc(mebibyte, { device: 1 });
    },
    async () => {
      extra?.free();
      assert.deepEqual(memory(), model.awake);
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
        model.assertAwake();
      },
    );
  }
}

/** Every single AscendCL call of a sleep, of a wake-up and of the rest fails once. */
export async function everyCallFailsOnce(): Promise<void> {
  for (const code of faultCodes) {
    const once = (number: number) => `*:${number}=${code}`;
    await sweep(once, attachAndClose, async (error) => {
      // Closing may have failed: then it can be called again.
      if (error !== undefined) await CaMemAllocator.getInstance().close();
      assertNothingLeft();
    });
    const model = new AwakeModel();
    await sweepSleep(once, model);
    await sweepWakeUp(once, model);
    await sweepMallocAndFree(once, model);
    await model.allocator.close();
    assertNothingLeft();
  }
}

/** Covers the calls of attaching and closing. */
async function attachAndClose(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  allocator.malloc(100, { tag: "weights", device: 1 });
  await allocator.sleep();
  await allocator.close();
}

const attempts = 3;

/** Most calls between two faults; undoing a transition of the small model makes fewer. */
const longestDistance = 20;

/** A transition of a small model that takes longer hangs. */
export const settleMs = 5000;

/** Repeats a call that must first give back memory that an earlier one could not. */
async function eventually(call: () => Promise<unknown>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await call();
      return;
    } catch (error) {
      if (attempt === attempts) throw error;
    }
  }
}

const sleepOrGiveUp = (allocator: CaMemAllocator) =>
  allocator.sleep({ signal: AbortSignal.timeout(settleMs) });
const wakeOrGiveUp = (allocator: CaMemAllocator) =>
  allocator.wakeUp({ signal: AbortSignal.timeout(settleMs) });

/** After any failure a sleep gives back all device memory, and a wake-up restores the content. */
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

/** Every call from one on fails, so undoing fails too. Once the device works again, the content returns. */
export async function everyLaterCallFails(): Promise<void> {
  for (const code of [...faultCodes, 207020]) {
    const allocator = CaMemAllocator.getInstance({ poolSegment: "2MiB" });
    const { keeps } = smallModel(allocator);
    await sweepTransitions(allocator, keeps, (number) => `*:${number}+=${code}`);
    await allocator.close();
    assertNothingLeft();
  }
}

/** Two calls fail: the second is often one that undoes the effect of the first. */
export async function everyPairOfCallsFails(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const filled = [0, 1].map((device) => fill(allocator.malloc(100, { tag: "weights", device })));
  allocator.malloc(100, { tag: "kv_cache" });
  for (let distance = 1; distance <= longestDistance; distance++) {
    const faultAt = (number: number) => `*:${number}=507899,*:${number + distance}=507899`;
    await sweepTransitions(allocator, filled, faultAt);
  }
  await allocator.close();
}

/** Synchronise calls return these codes although all work is done, such as the numeric overflow of an earlier kernel. */
export async function synchronizeNotices(): Promise<void> {
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

/** Waiting for copies fails while they run: their memory must stay until they end. */
export async function copyWaitFails(): Promise<void> {
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

/** When undoing a sleep fails too, the next sleep still completes and gives back all device memory. */
export async function undoFails(): Promise<void> {
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
