/** Runs many sleep and wake-up cycles over mixed memory and measures growth. */

import { readdirSync, readFileSync } from "node:fs";
import { CaMemAllocator } from "camem";
import { type Accounting, accounting, granulesBetween, onEmulator, pattern } from "../support/device.ts";

export interface SoakResult {
  readonly cycles: number;
  /** The device holds the same as after the first cycles. */
  readonly accountingIdentical: boolean;
  readonly freeBytesEqual: boolean;
  /** Growth of resident host memory, by least squares over the second half of the cycles. */
  readonly residentBytesPer1000Cycles: number;
  readonly openFilesBefore: number;
  readonly openFilesAfter: number;
}

interface Sample {
  readonly cycle: number;
  readonly residentBytes: number;
}

const pageBytes = 4096;

function residentBytes(): number {
  return Number(readFileSync("/proc/self/statm", "utf8").split(" ")[1]) * pageBytes;
}

const openFiles = () => readdirSync("/proc/self/fd").length;

/** The slope of `samples` in bytes per cycle. */
function slope(samples: readonly Sample[]): number {
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const meanCycle = mean(samples.map((sample) => sample.cycle));
  const meanBytes = mean(samples.map((sample) => sample.residentBytes));
  const covariance = mean(
    samples.map((sample) => (sample.cycle - meanCycle) * (sample.residentBytes - meanBytes)),
  );
  return covariance / mean(samples.map((sample) => (sample.cycle - meanCycle) ** 2));
}

/** One eighth of the set is offloaded in each cycle, in segments and in a pool; the rest is discarded. */
function allocate(allocator: CaMemAllocator, totalBytes: number) {
  const eighth = totalBytes / 8;
  const weights = allocator.malloc(eighth / 2, { tag: "weights" });
  const content = pattern(eighth / 2, 1);
  weights.write(content);
  const pool = allocator.memoryPool("buffers");
  for (let index = 0; index < 16; index++) pool.malloc(eighth / 32).fill(index);
  const caches = Array.from({ length: 7 }, () => allocator.malloc(eighth, { tag: "kv_cache" }));
  return { weights, content, caches };
}

/** @param report receives the progress, at most a hundred times */
export async function soak(
  cycles: number,
  totalBytes: number,
  report: (done: number) => void,
): Promise<SoakResult> {
  await using allocator = CaMemAllocator.getInstance();
  const { weights, content, caches } = allocate(allocator, totalBytes);
  const samples: Sample[] = [];
  // Measuring opens files and fills caches too, so the baseline is taken after the first two samples.
  const settled = 2 * Math.ceil(cycles / 100);
  let start: { held: Accounting | undefined; freeBytes: number; files: number } | undefined;
  const measure = () => ({
    held: onEmulator ? accounting() : undefined,
    freeBytes: allocator.memGetInfo().freeBytes,
    files: openFiles(),
  });
  for (let cycle = 1; cycle <= cycles; cycle++) {
    await allocator.sleep({ level: 1 });
    await allocator.wakeUp();
    for (const cache of caches) cache.write(content.subarray(0, 64));
    if (cycle % Math.ceil(cycles / 100) === 0) {
      Bun.gc(true);
      samples.push({ cycle, residentBytes: residentBytes() });
      report(cycle);
    }
    if (cycle === settled) start = measure();
  }
  if (Buffer.compare(weights.read(), content) !== 0) throw new Error("content was lost");
  const end = measure();
  return {
    cycles,
    accountingIdentical: Bun.deepEquals(start?.held, end.held),
    freeBytesEqual: start !== undefined && granulesBetween(end.freeBytes, start.freeBytes) === 0,
    residentBytesPer1000Cycles: Math.round(slope(samples.slice(samples.length / 2)) * 1000),
    openFilesBefore: start?.files ?? 0,
    openFilesAfter: end.files,
  };
}
