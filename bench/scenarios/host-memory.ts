/** The peak host memory of a cold level-1 sleep, beyond the process's memory before it. */

import { writeFileSync } from "node:fs";
import type { CaMemAllocator } from "camem";
import { describeLayout, GiB, MiB, pooled, quickBytes, segmentsOf } from "../layout.ts";
import { alternate } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import { type Context, kernelBytes, Memory, Session } from "../session.ts";
import { statistic } from "../statistics.ts";

const statusFile = "/proc/self/status";
/** Host memory beyond the backup that the target allows. */
const allowanceBytes = 64 * MiB;

/** Sets the peak VmHWM to the current resident memory. */
const resetPeak = () => writeFileSync("/proc/self/clear_refs", "5");

/**
 * Peak growth of resident and of page-locked memory during a sleep. On the emulator, device memory is
 * resident both before and during the sleep, so it cancels out. Page-locked memory is measured too, because a
 * driver may not count it as resident.
 */
async function peakOfSleep(allocator: CaMemAllocator) {
  Bun.gc(true);
  resetPeak();
  const residentBefore = kernelBytes(statusFile, "VmRSS");
  const lockedBefore = allocator.hostUsage().pageLockedBytes;
  let locked = 0;
  const sample = () => {
    locked = Math.max(locked, allocator.hostUsage().pageLockedBytes - lockedBefore);
  };
  const timer = setInterval(sample, 1);
  await allocator.sleep();
  clearInterval(timer);
  sample();
  const resident = kernelBytes(statusFile, "VmHWM") - residentBefore;
  await allocator.wakeUp();
  return { resident, locked };
}

export async function hostMemory(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const { allocator } = session;
  const layout = pooled(context.quick ? quickBytes : GiB);
  using _memory = new Memory(allocator, "weights", layout);
  const parts = { camem: () => peakOfSleep(allocator) };
  const measured = await alternate(parts, { rounds: context.quick ? 3 : 5 });
  const resident = measured.get("camem", "resident");
  const locked = measured.get("camem", "locked");
  const figure = (name: string, values: readonly number[]): Figure => ({
    scenario: "host memory",
    case: name,
    operation: "sleep",
    sizeBytes: layout.sizeBytes,
    segments: segmentsOf(layout),
    unit: "bytes",
    value: statistic(values),
  });
  const peaks = locked.map((bytes, round) => Math.max(bytes, resident[round] ?? 0));
  // A quick run's sleep may stay below the allowance.
  const ratio = peaks.map((bytes) => Math.max(bytes - allowanceBytes, 0) / layout.sizeBytes);
  return {
    figures: [figure("peak resident memory", resident), figure("page-locked memory", locked)],
    targets: [{ id: "host", measured: describeLayout(layout), value: statistic(ratio) }],
    notes: [],
  };
}
