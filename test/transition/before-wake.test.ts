/** `beforeWake` hooks: room that they make, failures, and order. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator, type DeviceBuffer, type PendingWake } from "camem";
import type { Command } from "../support/allocator-worker.ts";
import { codeOf, failureOf, MiB, pattern, wholeGranules } from "../support/device.ts";

let allocator: CaMemAllocator;
let weights: DeviceBuffer;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  weights = allocator.malloc(8 * MiB, { tag: "weights" });
  weights.write(pattern(8 * MiB, 1));
});

afterEach(() => allocator.close());

/** Takes all device memory but what is too little for the weights. */
function fillDevice(): DeviceBuffer {
  const freeBytes = wholeGranules(allocator.memGetInfo().freeBytes);
  return allocator.malloc(freeBytes - 4 * MiB, { tag: "sleep_persistent" });
}

test("wakeUp() counts the room that a beforeWake hook makes", async () => {
  await allocator.sleep();
  const scratch = fillDevice();
  expect(await codeOf(() => allocator.wakeUp())).toBe("OUT_OF_DEVICE_MEMORY");
  let seen: PendingWake | undefined;
  allocator.onTransition({
    async beforeWake(transition) {
      seen = transition;
      await sleep(1);
      scratch.free();
    },
  });
  await allocator.wakeUp();
  expect(weights.read()).toEqual(pattern(8 * MiB, 1));
  expect(seen?.tags).toEqual(["weights"]);
  expect(seen?.devices).toMatchObject([{ device: 0, neededBytes: 8 * MiB }]);
  expect(seen?.devices[0]?.freeBytes).toBeLessThan(8 * MiB);
});

test("wakeUp() runs beforeWake hooks before and afterWake hooks after it, but neither for a no-op", async () => {
  const calls: string[] = [];
  for (const name of ["first", "second"])
    allocator.onTransition({
      beforeWake: ({ tags }) => calls.push(`${name} before ${tags} ${weights.state}`),
      afterWake: ({ tags }) => calls.push(`${name} after ${tags} ${weights.state}`),
    });
  await allocator.wakeUp();
  await allocator.sleep();
  allocator.plan("wake");
  await allocator.wakeUp({ tags: ["kv_cache"] });
  expect(calls).toEqual([]);
  await allocator.wakeUp();
  expect(calls).toEqual([
    "first before weights offloaded",
    "second before weights offloaded",
    "first after weights mapped",
    "second after weights mapped",
  ]);
});

test("wakeUp() changes nothing when a beforeWake hook throws", async () => {
  const cause = new RangeError("no room");
  const calls: string[] = [];
  const remove = allocator.onTransition({
    beforeWake() {
      throw cause;
    },
    afterWake: () => calls.push("afterWake"),
  });
  allocator.onTransition({ beforeWake: () => calls.push("second") });
  await allocator.sleep();
  const failure = await failureOf(() => allocator.wakeUp());
  expect(failure).toMatchObject({ code: "HOOK_FAILED", cause, transitionComplete: false });
  expect(failure.message).toContain("the wake-up was cancelled and nothing has changed");
  expect(calls).toEqual([]);
  expect(weights.state).toBe("offloaded");
  remove();
  await allocator.wakeUp();
  expect(weights.read()).toEqual(pattern(8 * MiB, 1));
});

test("a beforeWake hook cannot start a transition or close the allocator", async () => {
  const codes: string[] = [];
  allocator.onTransition({
    async beforeWake() {
      await sleep(1);
      codes.push(await codeOf(() => allocator.sleep()));
      codes.push(await codeOf(() => allocator.wakeUp()));
      codes.push(await codeOf(() => allocator.prepare()));
      codes.push(await codeOf(() => allocator.close()));
    },
  });
  await allocator.sleep();
  await allocator.wakeUp();
  expect(codes).toEqual(Array(4).fill("CALLED_FROM_HOOK"));
});

test("wakeUp() rejects on abort and close() when a beforeWake hook never settles", async () => {
  allocator.onTransition({ beforeWake: () => new Promise(() => undefined) });
  await allocator.sleep();
  const controller = new AbortController();
  const wake = codeOf(() => allocator.wakeUp({ signal: controller.signal }));
  await sleep(1);
  controller.abort();
  expect(await wake).toBe("ABORTED");
  expect(weights.state).toBe("offloaded");
  const closed = codeOf(() => allocator.wakeUp());
  await sleep(1);
  await allocator.close();
  expect(await closed).toBe("CLOSED");
});

/** Runs a command in a Worker that shares the allocator. */
function command(worker: Worker, name: Command): Promise<unknown> {
  const { promise, resolve } = Promise.withResolvers<unknown>();
  worker.onmessage = ({ data }) => resolve(data);
  worker.postMessage(name);
  return promise;
}

test("wakeUp() wakes only the tags that its beforeWake hooks know about", async () => {
  allocator.malloc(2 * MiB, { tag: "kv_cache" });
  await allocator.sleep({ tags: ["weights"] });
  const worker = new Worker(new URL("../support/allocator-worker.ts", import.meta.url), {
    type: "module",
    env: process.env as Record<string, string>,
  });
  try {
    const remove = allocator.onTransition({ beforeWake: () => command(worker, "sleep") });
    expect(await allocator.wakeUp()).toMatchObject({ restoredBytes: 8 * MiB, stillAsleep: ["kv_cache"] });
    remove();
    await command(worker, "close");
  } finally {
    worker.terminate();
  }
});
