/** `useMemoryPool`: what is allocated inside carries the tag, and the tag before comes back in every way of leaving. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { CaMemAllocator } from "camem";
import { MiB } from "../support/device.ts";
import { openPluggable } from "../support/pluggable.ts";

let allocator: CaMemAllocator;
const pluggable = openPluggable();

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
});

afterEach(() => allocator.close());

/** The tag that a JavaScript and a native allocation get right now. */
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

test("regions nest, and the outer tag comes back", () => {
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

test("the outer tag comes back when the body throws", () => {
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

test("an async body keeps its tag until it settles, and a rejection ends it too", async () => {
  await allocator.useMemoryPool("weights", async () => {
    await Bun.sleep(1);
    expect(currentTags()).toEqual(["weights", "weights"]);
  });
  const rejected = allocator.useMemoryPool("weights", async () => {
    await Bun.sleep(1);
    throw new RangeError("late");
  });
  await expect(rejected).rejects.toThrow("late");
  expect(currentTags()).toEqual(["default", "default"]);
});

test("async bodies that overlap each keep their own tag for what they allocate", async () => {
  const tagAfter = async (milliseconds: number) => {
    await Bun.sleep(milliseconds);
    using buffer = allocator.malloc(1);
    return buffer.tag;
  };
  const tags = await Promise.all([
    allocator.useMemoryPool("weights", () => tagAfter(6)),
    allocator.useMemoryPool("kv_cache", () => tagAfter(2)),
    tagAfter(4),
  ]);
  expect(tags).toEqual(["weights", "kv_cache", "default"]);
  expect(currentTags()).toEqual(["default", "default"]);
});

test("a region that outlives its allocator ends without harm, and leaves no tag behind", async () => {
  await allocator.useMemoryPool("weights", async () => {
    await allocator.close();
    allocator = CaMemAllocator.getInstance();
  });
  expect(currentTags()).toEqual(["default", "default"]);
});

test("an explicit tag goes before the region's", () => {
  allocator.useMemoryPool("weights", (pool) => {
    using explicit = allocator.malloc(1, { tag: "buffers" });
    using pooled = pool.malloc(1);
    expect([explicit.tag, pooled.tag]).toEqual(["buffers", "weights"]);
  });
});

test("memory allocated under a tag that is entered again is given back like any other", () => {
  const { freeBytes } = allocator.memGetInfo();
  const first = allocator.useMemoryPool("weights", (pool) => pool.malloc(MiB));
  const second = allocator.useMemoryPool("weights", (pool) => pool.malloc(MiB));
  first.free();
  second.free();
  expect(allocator.memGetInfo().freeBytes).toBe(freeBytes);
});
