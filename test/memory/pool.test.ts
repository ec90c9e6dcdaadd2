import { afterEach, beforeEach, expect, test } from "bun:test";
import { CaMemAllocator, type MemoryPool } from "camem";
import { codeOf, MiB, pattern, wholeGranules } from "../support/device.ts";

let allocator: CaMemAllocator;
let pool: MemoryPool;
let freeBefore: number;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance({ poolSegment: "4MiB" });
  freeBefore = allocator.memGetInfo().freeBytes;
  pool = allocator.memoryPool("weights");
});

afterEach(() => allocator.close());

const taken = () => wholeGranules(freeBefore - allocator.memGetInfo().freeBytes);

test("malloc() places small buffers in one segment, aligned and disjoint", () => {
  const buffers = [1, 511, 512, 513, 100_000].map((sizeBytes) => pool.malloc(sizeBytes));
  expect(taken()).toBe(4 * MiB);
  for (const [index, buffer] of buffers.entries()) {
    expect(buffer.ptr % 512).toBe(0);
    buffer.write(pattern(buffer.sizeBytes, index));
  }
  const inOrder = buffers.toSorted((a, b) => a.ptr - b.ptr);
  for (const [index, next] of inOrder.slice(1).entries()) {
    const before = inOrder[index];
    expect(next.ptr).toBeGreaterThanOrEqual((before?.ptr ?? 0) + (before?.sizeBytes ?? 0));
  }
  for (const [index, buffer] of buffers.entries())
    expect(buffer.read()).toEqual(pattern(buffer.sizeBytes, index));
});

test("malloc() gives a buffer larger than a segment its own segment", () => {
  pool.malloc(9 * MiB);
  expect(taken()).toBe(10 * MiB);
});

test("malloc() reuses freed space, merged with its neighbours", () => {
  const [first, second, third] = [MiB, MiB, MiB].map((sizeBytes) => pool.malloc(sizeBytes));
  const keep = pool.malloc(MiB);
  expect(taken()).toBe(4 * MiB);
  first?.free();
  third?.free();
  second?.free();
  expect(pool.malloc(3 * MiB).ptr).toBe(first?.ptr as never);
  expect(taken()).toBe(4 * MiB);
  expect(keep.state).toBe("mapped");
});

test("malloc() takes the smallest free space that fits", () => {
  const large = pool.malloc(2 * MiB);
  const between = pool.malloc(512);
  const small = pool.malloc(MiB);
  pool.malloc(512);
  large.free();
  small.free();
  expect(pool.malloc(MiB).ptr).toBe(small.ptr);
  expect(between.state).toBe("mapped");
});

test("free() of the last buffer releases the segment", () => {
  const buffers = Array.from({ length: 12 }, () => pool.malloc(MiB));
  expect(taken()).toBe(12 * MiB);
  for (const buffer of buffers.slice(4, 8)) buffer.free();
  expect(taken()).toBe(8 * MiB);
  for (const buffer of [...buffers.slice(0, 4), ...buffers.slice(8)]) buffer.free();
  expect(taken()).toBe(0);
  expect(pool.reservedBytes).toBe(0);
});

test("malloc() packs tensors far smaller than the granularity", () => {
  for (let index = 0; index < 1000; index++) pool.malloc(2048);
  expect(taken()).toBe(4 * MiB);
});

/** Qwen2.5-0.5B-Instruct's tensors, bf16, from its public configuration. */
function qwenSizes(): number[] {
  const [hidden, intermediate, layers, vocabulary, keyWidth] = [896, 4864, 24, 151_936, 2 * 64];
  const layer = [
    ...[hidden, hidden, hidden, keyWidth, keyWidth], // two norms and the biases of q, k and v
    ...[hidden * hidden, hidden * hidden, keyWidth * hidden, keyWidth * hidden], // q, o, k, v
    ...[intermediate * hidden, intermediate * hidden, intermediate * hidden],
  ];
  return [vocabulary * hidden, hidden, ...Array.from({ length: layers }, () => layer).flat()].map(
    (count) => 2 * count,
  );
}

test("mallocAll() wastes under 1 % for a model, where a segment each wastes a third or more", () => {
  const sizes = qwenSizes();
  const total = sizes.reduce((sum, sizeBytes) => sum + sizeBytes, 0);
  const apart = sizes.reduce((sum, sizeBytes) => sum + Math.ceil(sizeBytes / (2 * MiB)) * 2 * MiB, 0);
  const buffers = pool.mallocAll(sizes);
  expect(taken()).toBeLessThan(total * 1.01);
  expect(apart).toBeGreaterThan(total * 1.33);
  const inOrder = buffers.toSorted((a, b) => a.ptr - b.ptr);
  for (const [index, next] of inOrder.slice(1).entries())
    expect(next.ptr).toBeGreaterThanOrEqual((inOrder[index]?.ptr ?? 0) + (inOrder[index]?.sizeBytes ?? 0));
  for (const buffer of buffers) buffer.free();
  expect(taken()).toBe(0);
});

test("mallocAll() allocates all buffers or none", async () => {
  expect(await codeOf(() => pool.mallocAll([1000, 2 ** 45]))).toBe("OUT_OF_DEVICE_MEMORY");
  expect(await codeOf(() => pool.mallocAll([1000, 0]))).toBe("INVALID_SIZE");
  expect(pool.mallocAll([])).toEqual([]);
  expect(taken()).toBe(0);
});

test("malloc() and free() of 100,000 buffers release every segment", () => {
  const buffers = Array.from({ length: 100_000 }, (_, index) => pool.malloc(512 + ((index * 7919) % 8192)));
  for (let index = 0; index < buffers.length; index += 2) buffers[index]?.free();
  for (let index = 0; index < buffers.length; index += 2)
    buffers[index] = pool.malloc(512 + ((index * 104_729) % 8192));
  const inOrder = buffers.toSorted((a, b) => a.ptr - b.ptr);
  expect(
    inOrder.every(
      (buffer, index) =>
        index === 0 || buffer.ptr >= (inOrder[index - 1]?.ptr ?? 0) + (inOrder[index - 1]?.sizeBytes ?? 0),
    ),
  ).toBe(true);
  for (const buffer of buffers) buffer.free();
  expect(taken()).toBe(0);
});

test("malloc() takes no free space in memory that is asleep", async () => {
  pool.malloc(1000).fill(1);
  await allocator.sleep();
  const fresh = pool.malloc(1000);
  fresh.fill(2);
  await allocator.wakeUp();
  expect(fresh.read()).toEqual(new Uint8Array(1000).fill(2));
});

test("memoryPool() returns one pool for each tag and device", async () => {
  expect(allocator.memoryPool("weights")).toBe(pool);
  expect(allocator.memoryPool("kv_cache")).not.toBe(pool);
  expect(await codeOf(() => allocator.memoryPool("weights", { device: 99 }))).toBe("UNKNOWN_DEVICE");
});
