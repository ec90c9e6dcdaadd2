/** Tags may be named like properties that every object inherits. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { CaMemAllocator } from "camem";

const names = ["constructor", "__proto__", "toString"];
let allocator: CaMemAllocator;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
});

afterEach(() => allocator.close());

test("usage() and plan() have no entry for a tag without memory, whatever its name", () => {
  for (const name of names) {
    expect(allocator.usage()[name]).toBeUndefined();
    expect(allocator.plan("sleep").tags[name]).toBeUndefined();
  }
});

test("sleep() and wakeUp() follow the policies of tags named like properties of objects", async () => {
  const buffers = names.map((tag) => {
    allocator.defineTag(tag, { 1: "offload" });
    const buffer = allocator.malloc(1, { tag });
    buffer.fill(3);
    return buffer;
  });
  expect(Object.keys(allocator.plan("sleep").tags).toSorted()).toEqual(names.toSorted());
  expect(Object.keys(allocator.usage()).toSorted()).toEqual(names.toSorted());
  await allocator.sleep();
  for (const name of names) expect(allocator.usage()[name]?.state).toBe("asleep");
  await allocator.wakeUp();
  for (const buffer of buffers) expect(buffer.read()).toEqual(new Uint8Array([3]));
});
