/** Transitions of many segments leave the event loop to other tasks. */

import { afterEach, beforeEach, expect, spyOn, test } from "bun:test";
import { CaMemAllocator } from "camem";
import { SegmentTable } from "../../src/memory/table.ts";
import { codeOf, MiB } from "../support/device.ts";

/** From this size on, planning and submitting are turns of their own. */
const segments = 1000;

let allocator: CaMemAllocator;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  for (let index = 0; index < segments; index++) allocator.malloc(2 * MiB, { tag: "kv_cache" });
});

afterEach(() => allocator.close());

/** The turns of the event loop in which `run` read the table, and in which it submitted its plan. */
async function turnsOf(run: (onProgress: () => void) => Promise<unknown>): Promise<{
  reads: number[];
  submission: number;
}> {
  let turn = 0;
  let isRunning = true;
  const tick = () => {
    turn++;
    if (isRunning) setImmediate(tick);
  };
  tick();
  const reads: number[] = [];
  let submission = 0;
  const summary = SegmentTable.prototype.summary;
  const spy = spyOn(SegmentTable.prototype, "summary").mockImplementation(function (
    this: SegmentTable,
    ...given
  ) {
    reads.push(turn);
    return summary.apply(this, given);
  });
  try {
    await run(() => {
      submission ||= turn;
    });
    return { reads, submission };
  } finally {
    isRunning = false;
    spy.mockRestore();
  }
}

test("sleep() and wakeUp() read a large table once in a turn of the event loop", async () => {
  const verify = async (run: (onProgress: () => void) => Promise<unknown>) => {
    const { reads, submission } = await turnsOf(run);
    // Submitting reads the table in the shim.
    expect(new Set([...reads, submission]).size).toBe(reads.length + 1);
    expect(submission).toBeGreaterThan(Math.max(...reads));
  };
  await verify((onProgress) => allocator.sleep({ onProgress }));
  await verify((onProgress) => allocator.wakeUp({ onProgress }));
  allocator.onTransition({ beforeSleep: () => undefined });
  await verify((onProgress) => allocator.sleep({ onProgress }));
});

test("sleep() changes nothing when its signal aborts between planning and submitting", async () => {
  const controller = new AbortController();
  const sleep = codeOf(() => allocator.sleep({ signal: controller.signal }));
  setImmediate(() => controller.abort());
  expect(await sleep).toBe("ABORTED");
  expect(allocator.isSleeping).toBe(false);
});
