/** Every method in every state of a buffer. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator, type DeviceBuffer } from "camem";
import { codeOf, granulesBetween, holdDevice, MiB } from "./support/device.ts";

const accesses = {
  write: (buffer: DeviceBuffer) => buffer.write(new Uint8Array(8)),
  read: (buffer: DeviceBuffer) => buffer.read(0, 8),
  readInto: (buffer: DeviceBuffer) => buffer.readInto(new Uint8Array(8)),
  fill: (buffer: DeviceBuffer) => buffer.fill(1),
};
const names = Object.keys(accesses) as (keyof typeof accesses)[];

let allocator: CaMemAllocator;
let buffer: DeviceBuffer;
let pooled: DeviceBuffer;
let freeBefore: number;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  freeBefore = allocator.memGetInfo().freeBytes;
  buffer = allocator.malloc(3 * MiB, { tag: "weights" });
  pooled = allocator.memoryPool("weights").malloc(1000);
});

afterEach(() => allocator.close());

const both = () => [buffer, pooled];

describe("mapped", () => {
  test.each(names)("%s() works on mapped memory", (name) => {
    for (const each of both()) accesses[name](each);
  });

  test("wakeUp() reports a no-op when memory is mapped", async () => {
    expect(await allocator.wakeUp()).toMatchObject({ alreadyAwake: true, restoredBytes: 0, stillAsleep: [] });
  });

  test("free() releases mapped memory", () => {
    for (const each of both()) each.free();
    expect(granulesBetween(allocator.memGetInfo().freeBytes, freeBefore)).toBe(0);
    expect(allocator.usage()).toEqual({});
  });
});

describe.each([
  ["offloaded", 1],
  ["discarded", 2],
] as const)("%s", (state, level) => {
  beforeEach(async () => {
    await allocator.sleep({ level });
    expect(buffer.state).toBe(state);
  });

  test.each(names)("%s() throws BUFFER_ASLEEP", async (name) => {
    for (const each of both()) expect(await codeOf(() => accesses[name](each))).toBe("BUFFER_ASLEEP");
  });

  test("sleep() reports a no-op when memory is asleep", async () => {
    expect(await allocator.sleep({ level })).toMatchObject({
      alreadySleeping: true,
      freedBytes: 0,
      offloadedBytes: 0,
    });
    expect(buffer.state).toBe(state);
  });

  test("free() drops the backup of sleeping memory and ends the sleep", () => {
    for (const each of both()) each.free();
    expect(both().map((each) => each.state)).toEqual(["freed", "freed"]);
    expect(granulesBetween(allocator.memGetInfo().freeBytes, freeBefore)).toBe(0);
    expect(allocator.usage()).toEqual({});
    expect(allocator.isSleeping).toBe(false);
  });

  test("wakeUp() succeeds twice", async () => {
    await allocator.wakeUp();
    expect(await allocator.wakeUp()).toMatchObject({ alreadyAwake: true });
    for (const name of names) for (const each of both()) accesses[name](each);
  });

  test("malloc() returns usable memory while other memory sleeps", async () => {
    const fresh = allocator.memoryPool("weights").malloc(1000);
    fresh.fill(9);
    await allocator.wakeUp();
    expect(fresh.read()).toEqual(new Uint8Array(1000).fill(9));
  });
});

describe("moving", () => {
  let held: { release(): void };
  let sleeping: Promise<unknown>;

  beforeEach(async () => {
    held = holdDevice();
    sleeping = allocator.sleep();
    while (buffer.state !== "moving") await sleep(1);
  });

  test.each(names)("%s() throws while memory moves, and works after wakeUp()", async (name) => {
    for (const each of both()) expect(await codeOf(() => accesses[name](each))).toBe("BUFFER_MOVING");
    held.release();
    await sleeping;
    await allocator.wakeUp();
    for (const each of both()) accesses[name](each);
  });

  test("free() of moving memory counts at once and releases it when the sleep ends", async () => {
    for (const each of both()) each.free();
    expect(both().map((each) => each.state)).toEqual(["freed", "freed"]);
    expect(await codeOf(() => buffer.free())).toBe("BUFFER_FREED");
    held.release();
    await sleeping;
    expect(allocator.usage()).toEqual({});
    expect(granulesBetween(allocator.memGetInfo().freeBytes, freeBefore)).toBe(0);
  });

  test("close() cancels a running sleep", async () => {
    const outcome = codeOf(() => sleeping);
    const closing = allocator.close();
    expect(await outcome).toBe("CLOSED");
    held.release();
    await closing;
  });
});

describe("freed", () => {
  test.each(names)("%s() throws on freed memory", async (name) => {
    for (const each of both()) {
      each.free();
      expect(each.state).toBe("freed");
      expect(await codeOf(() => accesses[name](each))).toBe("BUFFER_FREED");
    }
  });

  test("free() throws when repeated, dispose does not", async () => {
    for (const each of both()) {
      each.free();
      expect(await codeOf(() => each.free())).toBe("BUFFER_FREED");
      each[Symbol.dispose]();
    }
  });
});

describe("closed", () => {
  beforeEach(() => allocator.close());

  test.each(names)("%s() throws on a closed allocator", async (name) => {
    for (const each of both()) expect(await codeOf(() => accesses[name](each))).toBe("CLOSED");
  });

  test("every method of a closed allocator throws, except close()", async () => {
    expect(await codeOf(() => allocator.malloc(1))).toBe("CLOSED");
    expect(await codeOf(() => allocator.memoryPool("weights"))).toBe("CLOSED");
    expect(await codeOf(() => allocator.useMemoryPool("weights", () => 0))).toBe("CLOSED");
    expect(await codeOf(() => allocator.sleep())).toBe("CLOSED");
    expect(await codeOf(() => allocator.wakeUp())).toBe("CLOSED");
    expect(await codeOf(() => allocator.usage())).toBe("CLOSED");
    expect(await codeOf(() => allocator.isSleeping)).toBe("CLOSED");
    expect(await codeOf(() => allocator.memGetInfo())).toBe("CLOSED");
    expect(await codeOf(() => allocator.defineTag("x", {}))).toBe("CLOSED");
    expect(await codeOf(() => allocator.onTransition({}))).toBe("CLOSED");
    for (const each of both()) each[Symbol.dispose]();
    await allocator.close();
  });

  test("getInstance() opens again, and old buffers stay unusable", async () => {
    const next = CaMemAllocator.getInstance();
    expect(next).not.toBe(allocator);
    const fresh = next.malloc(3 * MiB, { tag: "weights" });
    fresh.fill(5);
    expect(await codeOf(() => buffer.fill(1))).toBe("CLOSED");
    expect(fresh.read(0, 1)).toEqual(new Uint8Array([5]));
    allocator = next;
  });
});
