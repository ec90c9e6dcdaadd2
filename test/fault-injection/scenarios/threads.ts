/** Scenarios with native allocations on threads other than that of JavaScript. */

import { CaMemAllocator } from "camem";
import { assertNothingLeft, setFaults } from "../strict-runtime.ts";
import { assertContent, assertRejects, fill, mebibyte, smallModel } from "./buffers.ts";
import type { Role } from "./thread-worker.ts";

function startWorker(role: Role): Worker {
  const env = { ...process.env, STRICT_WORKER: role } as Record<string, string>;
  return new Worker(new URL("./thread-worker.ts", import.meta.url), { env });
}

/** A native thread allocates and frees on both devices while all memory sleeps and wakes. */
export async function otherThreadAllocates(): Promise<void> {
  const allocator = CaMemAllocator.getInstance();
  const { keeps } = smallModel(allocator);
  const worker = startWorker("allocate");
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

/** A thread that allocates natively on the devices that it is given, and outlives any session of the allocator. */
function startAllocating() {
  const worker = startWorker("allocate on message");
  const allocateOn = (...devices: number[]) =>
    new Promise((resolve, reject) => {
      worker.onmessage = resolve;
      worker.onerror = reject;
      worker.postMessage(devices);
    });
  return { worker, allocateOn };
}

/** Two threads use both devices over several sessions; their current context may be one that was destroyed. */
export async function staleContexts(): Promise<void> {
  const { worker, allocateOn } = startAllocating();
  for (let round = 0; round < 4; round++) {
    const allocator = CaMemAllocator.getInstance();
    // The order of the devices changes each round; the last round uses only one.
    const devices = round === 3 ? [1] : round % 2 === 0 ? [0, 1] : [1, 0];
    const filled = devices.map((device) => fill(allocator.malloc(mebibyte, { tag: "weights", device })));
    for (const device of devices) allocator.memGetInfo(device);
    await allocateOn(1, 0, 1);
    await allocator.sleep();
    await allocateOn(1, 0, 1);
    if (round % 2 === 0) {
      await allocator.wakeUp();
      for (const entry of filled) assertContent(entry, `in round ${round}`);
    }
    await allocator.close();
    assertNothingLeft();
  }
  worker.terminate();
}

/** A close that fails after it reset one device leaves a dead context current on the thread that used that device. */
export async function closeFailsHalfway(): Promise<void> {
  const { worker, allocateOn } = startAllocating();
  const allocator = CaMemAllocator.getInstance();
  for (const device of [0, 1]) allocator.malloc(mebibyte, { device });
  await allocateOn(0);
  setFaults("aclrtResetDevice:2=507899");
  await assertRejects(allocator.close(), "ACL_CALL_FAILED");
  setFaults();
  await allocateOn(1);
  await allocateOn(0, 1);
  await allocator.close();
  assertNothingLeft();
  worker.terminate();
}
