/** `useMemoryPool`: allocations inside carry the tag, and every exit restores the tag before. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator } from "camem";
import { codeOf, granulesBetween, MiB } from "../support/device.ts";
import { openPluggable } from "../support/pluggable.ts";
import { rejectionMessage } from "../support/rejection.ts";

let allocator: CaMemAllocator;
const pluggable = openPluggable();

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
});

afterEach(() => allocator.close());

/** The tags of a JavaScript and a native allocation at this moment. */
function currentTags(): [string, string] {
  const buffer = allocator.malloc(1);
  const before = new Set(Object.keys(allocator.usage()));
  buffer.free();
  const address = pluggable.malloc(MiB, 0);
  const native = Object.keys(allocator.usage()).join();
  pluggable.free(address, MiB, 0);
  expect(before.has(buffer.tag)).toBe(true);
  return [buffer.tag, native];
}

test("useMemoryPool() nests and restores the outer tag", () => {
  expect(currentTags()).toEqual(["default", "default"]);
  const result = allocator.useMemoryPool("weights", (outer) => {
    expect(outer.tag).toBe("weights");
    expect(currentTags()).toEqual(["weights", "weights"]);
    allocator.useMemoryPool("kv_cache", () => expect(currentTags()).toEqual(["kv_cache", "kv_cache"]));
    expect(currentTags()).toEqual(["weights", "weights"]);
    return 42;
  });
  expect(result).toBe(42);
  expect(currentTags()).toEqual(["default", "default"]);
});

test("useMemoryPool() restores the outer tag when its body throws", () => {
  allocator.useMemoryPool("weights", () => {
    expect(() =>
      allocator.useMemoryPool("kv_cache", () => {
        throw new RangeError("body");
      }),
    ).toThrow("body");
    expect(currentTags()).toEqual(["weights", "weights"]);
  });
  expect(currentTags()).toEqual(["default", "default"]);
});

test("useMemoryPool() keeps its tag until an async body settles", async () => {
  await allocator.useMemoryPool("weights", async () => {
    await sleep(1);
    expect(currentTags()).toEqual(["weights", "weights"]);
  });
  const rejected = allocator.useMemoryPool("weights", async () => {
    await sleep(1);
    throw new RangeError("late");
  });
  expect(await rejectionMessage(rejected)).toBe("late");
  expect(currentTags()).toEqual(["default", "default"]);
});

test("useMemoryPool() keeps its tag apart from that of code outside an async body", async () => {
  const tagAfter = async (milliseconds: number) => {
    await sleep(milliseconds);
    using buffer = allocator.malloc(1);
    return buffer.tag;
  };
  const tags = await Promise.all([
    allocator.useMemoryPool("weights", () => tagAfter(6)),
    allocator.useMemoryPool("weights", () => tagAfter(2)),
    tagAfter(4),
  ]);
  expect(tags).toEqual(["weights", "weights", "default"]);
  expect(currentTags()).toEqual(["default", "default"]);
});

test("useMemoryPool() refuses another tag while an async body runs", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const body = allocator.useMemoryPool("weights", async () => {
    await promise;
    expect(currentTags()).toEqual(["weights", "weights"]);
  });
  expect(await codeOf(() => allocator.useMemoryPool("kv_cache", () => 0))).toBe("STATE_CONFLICT");
  const refused = allocator.useMemoryPool("kv_cache", async () => 0);
  expect(await rejectionMessage(refused)).toContain("another tag is running");
  resolve();
  await body;
  allocator.useMemoryPool("kv_cache", () => expect(currentTags()).toEqual(["kv_cache", "kv_cache"]));
});

test("useMemoryPool() refuses another tag inside one of two async bodies", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const body = allocator.useMemoryPool("weights", () => promise);
  await allocator.useMemoryPool("weights", async () => {
    await sleep(1);
    expect(await codeOf(() => allocator.useMemoryPool("kv_cache", () => 0))).toBe("STATE_CONFLICT");
    resolve();
    await body;
    allocator.useMemoryPool("kv_cache", () => expect(currentTags()).toEqual(["kv_cache", "kv_cache"]));
  });
});

test("useMemoryPool() ends its region when its result has a then that throws", async () => {
  const thrown = new RangeError("then");
  const refuse = () => {
    throw thrown;
  };
  const throwing = () => new Proxy({}, { has: () => true, get: refuse });
  expect(() => allocator.useMemoryPool("weights", throwing)).toThrow("then");
  expect(currentTags()).toEqual(["default", "default"]);
});

test("my_malloc() follows the region of its own Worker, also after another Worker was terminated", async () => {
  await allocator.useMemoryPool("weights", async () => {
    const worker = new Worker(new URL("../support/region-worker.ts", import.meta.url), {
      type: "module",
      env: process.env as Record<string, string>,
    });
    const tags = await new Promise((resolve) => {
      worker.onmessage = ({ data }) => resolve(data);
    });
    expect(tags).toEqual(["kv_cache"]);
    expect(currentTags()).toEqual(["weights", "weights"]);
    worker.terminate();
  });
  // A terminated Worker's thread ends soon, not at once.
  while (currentTags()[1] === "kv_cache") await sleep(1);
  expect(currentTags()).toEqual(["default", "default"]);
});

test("useMemoryPool() leaves no tag when its body outlives the allocator", async () => {
  await allocator.useMemoryPool("weights", async () => {
    await allocator.close();
    allocator = CaMemAllocator.getInstance();
  });
  expect(currentTags()).toEqual(["default", "default"]);
});

test("malloc({ tag }) overrides the tag of useMemoryPool()", () => {
  allocator.useMemoryPool("weights", (pool) => {
    using explicit = allocator.malloc(1, { tag: "buffers" });
    using pooled = pool.malloc(1);
    expect([explicit.tag, pooled.tag]).toEqual(["buffers", "weights"]);
  });
});

test("free() releases memory of a tag that useMemoryPool() entered again", () => {
  const { freeBytes } = allocator.memGetInfo();
  const first = allocator.useMemoryPool("weights", (pool) => pool.malloc(MiB));
  const second = allocator.useMemoryPool("weights", (pool) => pool.malloc(MiB));
  first.free();
  second.free();
  expect(granulesBetween(allocator.memGetInfo().freeBytes, freeBytes)).toBe(0);
});

test("useMemoryPool() ends its region when the result of its body cannot be awaited", async () => {
  const fail = () => {
    throw new RangeError("then");
  };
  const name: string = "then";
  const throwing = Object.defineProperty({}, name, { get: fail });
  expect(() => allocator.useMemoryPool("weights", () => throwing)).toThrow("then");
  expect(currentTags()).toEqual(["default", "default"]);
  const results: unknown[] = [
    { [name]: fail },
    Object.assign(Promise.resolve(), { finally: fail }),
    Object.defineProperty(Promise.resolve(), "constructor", { get: fail }),
    Object.assign(() => undefined, { [name]: fail }),
  ];
  for (const result of results) {
    await Promise.allSettled([allocator.useMemoryPool("weights", () => result)]);
    expect(currentTags()).toEqual(["default", "default"]);
  }
});
