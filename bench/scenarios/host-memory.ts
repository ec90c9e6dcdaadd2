/** The host memory that a cold level-1 sleep takes at its peak, beyond what the process had before. */

import { writeFileSync } from "node:fs";
import type { CaMemAllocator } from "camem";
import { alternate } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import {
  type Context,
  describeLayout,
  GiB,
  kernelBytes,
  Memory,
  MiB,
  pooled,
  Session,
  segmentsOf,
} from "../session.ts";
import { statistic } from "../statistics.ts";

const statusFile = "/proc/self/status";
const slackBytes = 64 * MiB;

/** Makes VmHWM start anew from what is resident now. */
const resetPeak = () => writeFileSync("/proc/self/clear_refs", "5");

/**
 * The growth of the process's peak resident memory (on the emulator device memory is part of it before and during the sleep,
 * so that it cancels out), and of what the allocator has page-locked, which a driver may not count as resident.
 */
async function peakOfSleep(allocator: CaMemAllocator) {
  Bun.gc(true);
  resetPeak();
  const residentBefore = kernelBytes(statusFile, "VmRSS");
  const lockedBefore = allocator.hostUsage().pageLockedBytes;
  let locked = 0;
  const look = () => {
    locked = Math.max(locked, allocator.hostUsage().pageLockedBytes - lockedBefore);
  };
  const timer = setInterval(look, 1);
  await allocator.sleep();
  clearInterval(timer);
  look();
  const resident = kernelBytes(statusFile, "VmHWM") - residentBefore;
  await allocator.wakeUp();
  return { resident, locked };
}

export async function hostMemory(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const { allocator } = session;
  const layout = pooled(context.quick ? 256 * MiB : GiB);
  using _memory = new Memory(allocator, "weights", layout);
  const parts = { camem: () => peakOfSleep(allocator) };
  const measured = await alternate(parts, { rounds: context.quick ? 3 : 5 });
  const figure = (name: string, of: "resident" | "locked"): Figure => ({
    scenario: "host memory",
    case: name,
    operation: "sleep",
    sizeBytes: layout.sizeBytes,
    segments: segmentsOf(layout),
    unit: "bytes",
    value: statistic(measured.of("camem", of)),
  });
  const resident = measured.of("camem", "resident");
  const peaks = measured.of("camem", "locked").map((bytes, round) => Math.max(bytes, resident[round] ?? 0));
  // What is beyond the 64 MiB that are free in the reach; a quick run's sleep may stay below them.
  const ratio = peaks.map((bytes) => Math.max(bytes - slackBytes, 0) / layout.sizeBytes);
  return {
    figures: [figure("peak resident memory", "resident"), figure("page-locked memory", "locked")],
    reached: [{ id: "host", measured: describeLayout(layout), value: statistic(ratio) }],
    notes: [],
  };
}
