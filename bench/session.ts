/** What every scenario works with: the allocator, the C loops beside it, and memory of a given layout. */

import { readFileSync } from "node:fs";
import { CaMemAllocator, type DeviceBuffer, type TransitionDurations } from "camem";
import { runtimeInfo } from "../src/ffi/index.ts";
import type { AllocatorOptions } from "../src/options/config.ts";
import { formatSize } from "../src/options/sizes.ts";
import { CopyBy, Loops } from "./loops.ts";
import type { Durations } from "./rounds.ts";

export const MiB = 2 ** 20;
export const GiB = 2 ** 30;

/** A segment at its smallest, and one of a `MemoryPool` as large as by default. */
export const smallSegmentBytes = 2 * MiB;
export const largeSegmentBytes = 32 * MiB;

export interface Context {
  readonly quick: boolean;
  /** The library of the C loops. */
  readonly loopsPath: string;
  /** A folder that goes when the benchmark has ended. */
  readonly folder: string;
}

const modelMark = "timing model";

export function hasTimingModel(soc: string): boolean {
  return soc.includes(modelMark);
}

/** An allocator and the C loops on the same device, open together. */
export class Session implements AsyncDisposable {
  readonly allocator: CaMemAllocator;
  readonly loops: Loops;
  readonly copyBy: CopyBy;

  constructor(context: Context, options: Pick<AllocatorOptions, "retain">) {
    this.allocator = CaMemAllocator.getInstance(options);
    const { kind, library } = this.allocator.backend;
    this.allocator.memGetInfo(); // opens the device
    const addressable = kind === "emulator" && !hasTimingModel(runtimeInfo().socName);
    this.copyBy = addressable ? CopyBy.threads : CopyBy.streams;
    const device = Number(process.env["CAMEM_DEVICE"] ?? 0);
    this.loops = new Loops(context.loopsPath, library, device, this.copyBy);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.loops[Symbol.dispose]();
    await this.allocator.close();
  }
}

/** So many bytes, in segments of a size. */
export interface Layout {
  readonly sizeBytes: number;
  readonly segmentBytes: number;
}

export function segmentsOf({ sizeBytes, segmentBytes }: Layout): number {
  return Math.ceil(sizeBytes / segmentBytes);
}

/** In segments as large as a pool's, or in one where it is less than that. */
export function pooled(sizeBytes: number): Layout {
  return { sizeBytes, segmentBytes: Math.min(sizeBytes, largeSegmentBytes) };
}

export function describeLayout(layout: Layout): string {
  return `${formatSize(layout.sizeBytes)} in ${segmentsOf(layout)} × ${formatSize(layout.segmentBytes)}`;
}

export class Memory implements Disposable {
  readonly buffers: readonly DeviceBuffer[];

  constructor(allocator: CaMemAllocator, tag: string, layout: Layout) {
    const count = segmentsOf(layout);
    this.buffers = Array.from({ length: count }, () => allocator.malloc(layout.segmentBytes, { tag }));
  }

  [Symbol.dispose](): void {
    for (const buffer of this.buffers) buffer.free();
  }
}

/** The name that phases of a duration have in a round's durations. */
export const phasePrefix = (operation: string) => `${operation} phase `;

const phaseNames = {
  waitingMs: "waiting",
  preparingMs: "preparing",
  mappingMs: "mapping",
  copyingMs: "copying",
  verifyingMs: "verifying",
  releasingMs: "releasing",
} as const satisfies Partial<Record<keyof TransitionDurations, string>>;

/**
 * What one transition took as its caller sees it, and what that went to: `starting` is until the shim's thread runs it,
 * `outside` is what the shim has no part in.
 */
export async function timeTransition(
  operation: "sleep" | "wake",
  run: () => Promise<{ readonly durations: TransitionDurations }>,
): Promise<Durations> {
  const startedMs = performance.now();
  const { durations } = await run();
  const tookMs = performance.now() - startedMs;
  const prefix = phasePrefix(operation);
  const keys = Object.keys(phaseNames) as (keyof typeof phaseNames)[];
  const known = keys.reduce((sum, key) => sum + durations[key], 0);
  return {
    [operation]: tookMs,
    [`${prefix}starting`]: Math.max(0, durations.totalMs - known),
    ...Object.fromEntries(keys.map((key) => [`${prefix}${phaseNames[key]}`, durations[key]])),
    [`${prefix}outside`]: tookMs - durations.totalMs,
  };
}

/** A line of `/proc/…` in the form `Name:  123 kB`, in bytes. */
export function kernelBytes(path: string, name: string): number {
  const match = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(readFileSync(path, "utf8"));
  if (!match) throw new Error(`${path} has no ${name}`);
  return Number(match[1]) * 1024;
}

/** The sizes that fit into the host's memory and the device's, and a note on each that does not. */
export function sizesThatFit(
  sizes: readonly number[],
  hostBytesPerByte: number,
  allocator: CaMemAllocator,
): { readonly sizes: number[]; readonly notes: string[] } {
  const host = kernelBytes("/proc/meminfo", "MemAvailable") * 0.9;
  const device = allocator.memGetInfo().freeBytes;
  const fits = (size: number) => size * hostBytesPerByte + GiB <= host && size <= device;
  const notes = sizes
    .filter((size) => !fits(size))
    .map((size) => `${formatSize(size)} is left out: too little memory is free`);
  return { sizes: sizes.filter(fits), notes };
}
