/** What every scenario needs: the allocator, the C loops on the same device, and memory of a given layout. */

import { readFileSync } from "node:fs";
import { CaMemAllocator, type DeviceBuffer } from "camem";
import { localNative } from "../src/ffi/index.ts";
import type { AllocatorOptions } from "../src/options/allocator-options.ts";
import { formatSize } from "../src/options/sizes.ts";
import { GiB, type Layout, segmentsOf } from "./layout.ts";
import { CopyBy, Loops } from "./loops.ts";

export interface Context {
  readonly quick: boolean;
  /** Path of the compiled C loops. */
  readonly loopsPath: string;
  /** Deleted when the benchmark ends. */
  readonly folder: string;
}

/** True for the emulator with its timing model: copies then take the model's time, not the processor's. */
export function hasTimingModel(soc: string): boolean {
  return soc.includes("timing model");
}

/** An allocator and the C loops, opened together on one device. */
export class Session implements AsyncDisposable {
  readonly allocator: CaMemAllocator;
  readonly loops: Loops;
  readonly copyBy: CopyBy;

  constructor(context: Context, options: Pick<AllocatorOptions, "retain" | "hostBudget">) {
    this.allocator = CaMemAllocator.getInstance(options);
    const { kind, library } = this.allocator.backend;
    this.allocator.memGetInfo(); // opens the device
    const isAddressable = kind === "emulator" && !hasTimingModel(localNative.runtimeInfo().socName);
    this.copyBy = isAddressable ? CopyBy.threads : CopyBy.streams;
    const device = Number(process.env["CAMEM_DEVICE"] ?? 0);
    this.loops = new Loops(context.loopsPath, library, device, this.copyBy);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.loops[Symbol.dispose]();
    await this.allocator.close();
  }
}

/** Buffers of one segment each, all with one tag. */
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

/** Bytes of a line in the form `Name:  123 kB` in a file of `/proc`. */
export function kernelBytes(path: string, name: string): number {
  const match = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(readFileSync(path, "utf8"));
  if (!match) throw new Error(`${path} has no ${name}`);
  return Number(match[1]) * 1024;
}

/** Bytes of host memory that a scenario needs for each byte of device memory, the emulated device's included. */
type HostBytesPerByte = 0 | 1 | 2;

/** Tells whether a size fits into host and device memory, with 1 GiB to spare. */
export function fits(size: number, hostBytesPerByte: HostBytesPerByte, allocator: CaMemAllocator): boolean {
  const hostBytes = kernelBytes("/proc/meminfo", "MemAvailable") * 0.9;
  return size * hostBytesPerByte + GiB <= hostBytes && size <= allocator.memGetInfo().freeBytes;
}

/** The sizes that fit into host and device memory, and a note on each size that does not. */
export function sizesThatFit(
  sizes: readonly number[],
  hostBytesPerByte: HostBytesPerByte,
  allocator: CaMemAllocator,
): { readonly sizes: number[]; readonly notes: string[] } {
  const { yes = [], no = [] } = Object.groupBy(sizes, (size) =>
    fits(size, hostBytesPerByte, allocator) ? "yes" : "no",
  );
  return {
    sizes: yes,
    notes: no.map((size) => `${formatSize(size)} is left out: too little memory is free`),
  };
}
