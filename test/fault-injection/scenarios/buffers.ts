/** Buffers with known content and assertions on them and on errors, for every scenario. */

import { dlopen } from "bun:ffi";
import assert from "node:assert/strict";
import { join } from "node:path";
import { type CaMemAllocator, CamemError, type CamemErrorCode, type DeviceBuffer } from "camem";

export const mebibyte = 1 << 20;

/** The entry points through which a native engine allocates. */
export const { symbols: pluggable } = dlopen(
  join(import.meta.dir, "../../../native", `linux-${process.arch}`, "libcamem.so"),
  {
    my_malloc: { args: ["i64", "i32", "ptr"], returns: "u64" },
    my_free: { args: ["u64", "i64", "i32", "ptr"], returns: "void" },
  },
);

/** A prime, so that no two pages or segments start with the same bytes. */
const patternPeriod = 65_521;

/** Bytes that differ by position and by seed. */
export function pattern(sizeBytes: number, seed: number): Uint8Array {
  const period = new Uint8Array(patternPeriod);
  let state = seed;
  for (let index = 0; index < period.length; index++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    period[index] = state >>> 24;
  }
  return Buffer.alloc(sizeBytes, period);
}

export interface Filled {
  readonly buffer: DeviceBuffer;
  readonly bytes: Uint8Array;
  readonly ptr: number;
}

let lastSeed = 0;

/** A seed that no other buffer of this process has. */
export const nextSeed = () => ++lastSeed;

export function fill(buffer: DeviceBuffer): Filled {
  const bytes = pattern(buffer.sizeBytes, nextSeed());
  buffer.write(bytes);
  return { buffer, bytes, ptr: buffer.ptr };
}

export function assertContent({ buffer, bytes, ptr }: Filled, when: string): void {
  assert.equal(buffer.ptr, ptr, `${buffer.tag} moved ${when}`);
  const found = buffer.read();
  if (Buffer.compare(found, bytes) === 0) return;
  const different = found.findIndex((byte, index) => byte !== bytes[index]);
  assert.fail(`byte ${different} of ${buffer.tag} on device ${buffer.device} differs ${when}`);
}

export async function rejection(promise: Promise<unknown>): Promise<CamemError> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  assert(outcome instanceof CamemError, `expected a CamemError, got ${outcome}`);
  return outcome;
}

export function thrown(call: () => unknown): CamemError {
  try {
    call();
  } catch (error) {
    if (error instanceof CamemError) return error;
    throw error;
  }
  return assert.fail("expected a CamemError");
}

export async function assertRejects(promise: Promise<unknown>, code: CamemErrorCode): Promise<CamemError> {
  const error = await rejection(promise);
  assert.equal(error.code, code, error.message);
  return error;
}

/** Few small buffers on both devices, so that a sweep over all calls stays short. Those in `zero` are zero while awake. */
export function smallModel(allocator: CaMemAllocator) {
  allocator.defineTag("kv_cache", { zero: true });
  const first = allocator.malloc(mebibyte, { tag: "kv_cache" });
  const keeps = [0, 1, 0].map((device, index) =>
    fill(allocator.malloc(2 * mebibyte * (index % 2) + 100 + index, { tag: "weights", device })),
  );
  keeps.push(fill(allocator.memoryPool("weights").malloc(77)));
  const cache = allocator.malloc(mebibyte, { tag: "kv_cache", device: 1 });
  const buffers = [first, ...keeps.map(({ buffer }) => buffer), cache];
  const zero = [first, cache];
  for (const buffer of zero) buffer.fill(0);
  return { keeps, zero, buffers };
}
