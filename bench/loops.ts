/** Bindings of the C loops in `bench/native`: camem's limits and the peers' algorithm. */

import { dlopen, type Pointer } from "bun:ffi";
import { join } from "node:path";
import type { DeviceBuffer } from "../src/memory/buffer.ts";
import { compile } from "./compile.ts";

const sources = join(import.meta.dir, "native");

/** Compiles the loops into `folder` and returns the library's path. */
export async function compileLoops(folder: string): Promise<string> {
  const library = join(folder, "libloops.so");
  const files = [...new Bun.Glob("*.c").scanSync(sources)].sort().map((name) => join(sources, name));
  await compile(library, files, ["-shared", "-fPIC", "-fvisibility=hidden", "-lpthread", "-ldl"]);
  return library;
}

function openLibrary(path: string) {
  return dlopen(path, {
    loops_open: { args: ["ptr", "i32"], returns: "i32" },
    loops_close: { args: [], returns: "i32" },
    loops_set_create: { args: ["u64", "u64"], returns: "ptr" },
    loops_set_destroy: { args: ["ptr"], returns: "i32" },
    loops_set_ranges: { args: ["ptr", "ptr"], returns: "void" },
    loops_set_unmap: { args: ["ptr", "ptr"], returns: "i32" },
    loops_set_map: { args: ["ptr", "ptr"], returns: "i32" },
    loops_peers_sleep: { args: ["ptr", "ptr"], returns: "i32" },
    loops_peers_wake: { args: ["ptr", "ptr"], returns: "i32" },
    loops_peers_host_bytes: { args: ["ptr"], returns: "u64" },
    loops_latency: { args: ["u64", "u64", "ptr", "ptr"], returns: "i32" },
    loops_host_create: { args: ["u64"], returns: "ptr" },
    loops_host_destroy: { args: ["ptr"], returns: "i32" },
    loops_copy: { args: ["ptr", "u64", "ptr", "u64", "i32", "i32", "u64", "ptr", "ptr"], returns: "i32" },
    loops_copy_begin: { args: ["ptr", "u64", "ptr", "u64", "i32", "u64"], returns: "i32" },
    loops_copy_poll: { args: [], returns: "i32" },
    loops_forget_file: { args: ["i32"], returns: "i32" },
    loops_copy_file: { args: ["i32", "ptr", "u64", "ptr", "u64", "u64", "ptr"], returns: "i32" },
  }).symbols;
}

type Symbols = ReturnType<typeof openLibrary>;

/** What copies the bytes of a limit: threads of the processor, or streams of the device. */
export const CopyBy = { threads: 0, streams: 1 } as const;
export type CopyBy = (typeof CopyBy)[keyof typeof CopyBy];

/** Threads or streams of a copy. Equals camem's streams per device (`shim/src/runtime.zig`). */
const lanes = 2;

/** Output of the C loops, in nanoseconds. */
const elapsed = new BigUint64Array(2);
const secondElapsed = elapsed.subarray(1);
const elapsedMs = (index = 0) => Number(elapsed[index]) / 1e6;

function check(code: number, what: string): void {
  if (code !== 0) throw new Error(`${what} failed in the C loops with ${code}`);
}

function notNull(pointer: Pointer | bigint | null, what: string): Pointer {
  if (typeof pointer !== "number") throw new Error(`the C loops got no ${what}`);
  return pointer;
}

export class Loops implements Disposable {
  readonly #symbols: Symbols;
  readonly #copyBy: CopyBy;

  /** Requires that AscendCL is initialised. Keeps device memory and the calling thread's context. */
  constructor(path: string, aclLibrary: string, device: number, copyBy: CopyBy) {
    this.#symbols = openLibrary(path);
    this.#copyBy = copyBy;
    check(this.#symbols.loops_open(Buffer.from(`${aclLibrary}\0`), device), "opening AscendCL");
  }

  [Symbol.dispose](): void {
    check(this.#symbols.loops_close(), "closing the device");
  }

  /** Maps segments of its own. */
  segments(count: number, sizeBytes: number): SegmentSet {
    const pointer = this.#symbols.loops_set_create(count, sizeBytes);
    return new SegmentSet(this.#symbols, notNull(pointer, "device memory"), count);
  }

  /** Page-locked host memory for copies. */
  host(sizeBytes: number): HostMemory {
    const pointer = notNull(this.#symbols.loops_host_create(sizeBytes), "host memory");
    return new HostMemory(this.#symbols, pointer, sizeBytes, this.#copyBy);
  }

  /** Removes a file from the page cache. */
  forget(descriptor: number): void {
    check(this.#symbols.loops_forget_file(descriptor), "removing a file from the page cache");
  }

  /** Mean milliseconds to map and to unmap one segment. */
  latency(sizeBytes: number, repetitions: number): { readonly mapMs: number; readonly unmapMs: number } {
    check(this.#symbols.loops_latency(sizeBytes, repetitions, elapsed, secondElapsed), "mapping one segment");
    return { mapMs: elapsedMs(0) / repetitions, unmapMs: elapsedMs(1) / repetitions };
  }
}

/** Segments of one size that the C loops map and unmap. Methods return milliseconds. */
export class SegmentSet implements Disposable {
  readonly #symbols: Symbols;
  readonly #pointer: Pointer;

  /** Pairs of address and size. */
  readonly ranges: BigUint64Array;

  constructor(symbols: Symbols, pointer: Pointer, count: number) {
    this.#symbols = symbols;
    this.#pointer = pointer;
    this.ranges = new BigUint64Array(2 * count);
    symbols.loops_set_ranges(pointer, this.ranges);
  }

  unmap(): number {
    check(this.#symbols.loops_set_unmap(this.#pointer, elapsed), "unmapping");
    return elapsedMs();
  }

  map(): number {
    check(this.#symbols.loops_set_map(this.#pointer, elapsed), "mapping");
    return elapsedMs();
  }

  peersSleep(): number {
    check(this.#symbols.loops_peers_sleep(this.#pointer, elapsed), "the peers' sleep");
    return elapsedMs();
  }

  peersWake(): number {
    check(this.#symbols.loops_peers_wake(this.#pointer, elapsed), "the peers' wake-up");
    return elapsedMs();
  }

  /** Host memory that the peers hold between their sleep and their wake-up, in bytes. */
  peersHostBytes(): number {
    return Number(this.#symbols.loops_peers_host_bytes(this.#pointer));
  }

  /** Requires that the segments are mapped. */
  [Symbol.dispose](): void {
    check(this.#symbols.loops_set_destroy(this.#pointer), "freeing");
  }
}

/** Device memory as pairs of address and size, which the C loops take. */
export function rangesOf(buffers: readonly DeviceBuffer[]): BigUint64Array {
  return new BigUint64Array(buffers.flatMap(({ ptr, sizeBytes }) => [BigInt(ptr), BigInt(sizeBytes)]));
}

/** Page-locked memory that the C loops copy to and from. Methods return milliseconds. */
export class HostMemory implements Disposable {
  /** Share of the last copy's time in which its threads ran: 1 when each thread had a core. */
  runningShare = 1;
  readonly #symbols: Symbols;
  readonly #pointer: Pointer;
  readonly #sizeBytes: number;
  readonly #copyBy: CopyBy;

  constructor(symbols: Symbols, pointer: Pointer, sizeBytes: number, copyBy: CopyBy) {
    this.#symbols = symbols;
    this.#pointer = pointer;
    this.#sizeBytes = sizeBytes;
    this.#copyBy = copyBy;
  }

  copyToHost(ranges: BigUint64Array): number {
    return this.#copy(ranges, 1);
  }

  copyToDevice(ranges: BigUint64Array): number {
    return this.#copy(ranges, 0);
  }

  #copy(ranges: BigUint64Array, toHost: 0 | 1): number {
    const [memory, size, by, count] = [this.#pointer, this.#sizeBytes, this.#copyBy, ranges.length / 2];
    check(
      this.#symbols.loops_copy(ranges, count, memory, size, toHost, by, lanes, elapsed, secondElapsed),
      "copying",
    );
    if (by === CopyBy.threads) this.runningShare = elapsedMs(1) / (elapsedMs(0) * lanes);
    return elapsedMs();
  }

  /** Copies on threads without blocking the event loop. The processor must address device memory. */
  async copyInBackground(ranges: BigUint64Array, direction: "toHost" | "toDevice"): Promise<void> {
    const [memory, size] = [this.#pointer, this.#sizeBytes];
    const toHost = direction === "toHost" ? 1 : 0;
    const code = this.#symbols.loops_copy_begin(ranges, ranges.length / 2, memory, size, toHost, lanes);
    check(code, "starting to copy");
    while (this.#symbols.loops_copy_poll() === 0) await Bun.sleep(1);
  }

  copyFromFile(descriptor: number, ranges: BigUint64Array): number {
    const count = ranges.length / 2;
    const [memory, size] = [this.#pointer, this.#sizeBytes];
    check(
      this.#symbols.loops_copy_file(descriptor, ranges, count, memory, size, lanes, elapsed),
      "copying a file",
    );
    return elapsedMs();
  }

  [Symbol.dispose](): void {
    check(this.#symbols.loops_host_destroy(this.#pointer), "freeing host memory");
  }
}
