/** Loads of many tensors leave the event loop to other tasks. */

import { afterEach, beforeEach, expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, loadSafetensors } from "camem";
import { TimeSlices } from "../../src/async/time-slices.ts";
import type { DeviceBuffer } from "../../src/memory/buffer.ts";
import { checkpointOf } from "../support/checkpoint.ts";
import { codeOf } from "../support/device.ts";

const count = 400;
const names = Array.from({ length: count }, (_, index) => `layers.${index}.weight`);
let allocator: CaMemAllocator;
let folder: string;
let path: string;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  folder = mkdtempSync(join(tmpdir(), "camem-event-loop-"));
  path = join(folder, "model.safetensors");
  const tensors = names.map((name, index) => [name, new Uint8Array(8).fill(index)]);
  writeFileSync(path, checkpointOf(Object.fromEntries(tensors)));
});

afterEach(async () => {
  await allocator.close();
  rmSync(folder, { recursive: true });
});

/** The slices of `run`, where each piece takes a millisecond. */
async function slicesOf(run: () => Promise<unknown>): Promise<number> {
  let nowMs = 0;
  const clock = spyOn(performance, "now").mockImplementation(() => nowMs++);
  const next = spyOn(TimeSlices.prototype, "next");
  try {
    await run();
    return next.mock.calls.length;
  } finally {
    clock.mockRestore();
    next.mockRestore();
  }
}

for (const [name, extra] of [
  ["{}", {}],
  ['{ backing: "file" }', { backing: "file" }],
  ["{ tags, only }", { tags: { "layers.*": "weights" }, only: ["*.weight"] }],
] as const)
  test(`loadSafetensors(${name}) divides each of its steps into slices when there are many tensors`, async () => {
    const options = { allocator, ...extra };
    // Parsing, checking, tagging, allocating, mapping and preparing the copies each ask once for each tensor.
    expect(await slicesOf(() => loadSafetensors(path, options))).toBeGreaterThan((6 * count) / 4);
    const into = await loadSafetensors(path, { allocator });
    const reload = () => loadSafetensors(path, { allocator, into });
    expect(await slicesOf(reload)).toBeGreaterThan((5 * count) / 4);
  });

/** Ends each slice after one piece. */
function everySliceIsOver() {
  let nowMs = 0;
  return spyOn(performance, "now").mockImplementation(() => (nowMs += 100));
}

test("loadSafetensors() frees what it allocated when its signal aborts between two slices", async () => {
  const controller = new AbortController();
  const next = TimeSlices.prototype.next;
  let slices = 0;
  const spies = [
    everySliceIsOver(),
    spyOn(TimeSlices.prototype, "next").mockImplementation(function (this: TimeSlices) {
      if (++slices === 5 * count + 100) controller.abort();
      return next.apply(this);
    }),
  ];
  try {
    const options = { allocator, signal: controller.signal };
    expect(await codeOf(() => loadSafetensors(path, options))).toBe("ABORTED");
    expect(slices).toBeGreaterThan(5 * count + 100);
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
  expect(allocator.getCurrentUsage()).toBe(0);
});

test("loadSafetensors() keeps its segments to itself when the pool allocates between two slices", async () => {
  const pool = allocator.memoryPool("weights");
  const others: DeviceBuffer[] = [];
  const next = TimeSlices.prototype.next;
  const spies = [
    everySliceIsOver(),
    spyOn(TimeSlices.prototype, "next").mockImplementation(function (this: TimeSlices) {
      if (others.length < 3 * count) others.push(pool.malloc(8));
      return next.apply(this);
    }),
  ];
  try {
    const tensors = await loadSafetensors(path, { allocator });
    for (const other of others) other.fill(255);
    for (const [index, name] of names.entries())
      expect(tensors.get(name)?.buffer.read()).toEqual(new Uint8Array(8).fill(index));
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
});
