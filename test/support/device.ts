/** AscendCL calls beside camem, like those of an engine in the same process, and the emulator's
 * fault injection and accounting. */

import { CaMemAllocator, CamemError, type CamemErrorCode } from "camem";
import { emulatorLibraryPath } from "../../src/ffi/index.ts";
import { openLibrary } from "./runtime.ts";

export const MiB = 2 ** 20;

/** Tests with injected faults need the emulator and are skipped elsewhere. */
export const onEmulator = process.env["CAMEM_BACKEND"] === "emulator" && !process.env["CAMEM_ACL_LIBRARY"];

const granuleBytes = 2 * MiB;

/**
 * Whole granules between two amounts of free device memory: 0 where they are as good as equal. The runtime takes some
 * memory of its own while a device is first used, so free memory is never exact.
 */
export const granulesBetween = (actualBytes: number, expectedBytes: number) =>
  Math.trunc((actualBytes - expectedBytes) / granuleBytes) + 0;

/** The bytes of `freeBytes` that one segment can take. */
export const wholeGranules = (freeBytes: number) => freeBytes - (freeBytes % granuleBytes);

/** The error that `run` throws or rejects with. */
export async function failureOf(run: () => unknown): Promise<CamemError> {
  try {
    await run();
  } catch (error) {
    if (error instanceof CamemError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

/** The code of the error that `run` throws or rejects with. */
export async function codeOf(run: () => unknown): Promise<CamemErrorCode> {
  return (await failureOf(run)).code;
}

/** Bytes that differ by seed and by position. */
export function pattern(sizeBytes: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(sizeBytes);
  const block = new Uint8Array(65521);
  for (let index = 0, state = seed * 2654435761 + 1; index < block.length; index++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    block[index] = state >>> 24;
  }
  for (let offset = 0; offset < sizeBytes; offset += block.length)
    bytes.set(block.subarray(0, Math.min(block.length, sizeBytes - offset)), offset);
  return bytes;
}

/** AscendCL as an engine calls it, beside the allocator. */
export function openAscendCL(path: string) {
  return openLibrary(path, {
    aclrtMemcpyAsync: { args: ["ptr", "u64", "u64", "u64", "i32", "u64"], returns: "i32" },
    aclrtSetDevice: { args: ["i32"], returns: "i32" },
    aclrtResetDevice: { args: ["i32"], returns: "i32" },
    aclrtCreateStream: { args: ["ptr"], returns: "i32" },
    aclrtDestroyStream: { args: ["u64"], returns: "i32" },
    aclrtSynchronizeStream: { args: ["u64"], returns: "i32" },
    aclrtValueWait: { args: ["u64", "u64", "u32", "u64"], returns: "i32" },
    aclrtValueWrite: { args: ["u64", "u64", "u32", "u64"], returns: "i32" },
  });
}

function succeed(code: number, call: string): void {
  if (code !== 0) throw new Error(`${call} returned ${code}`);
}

/**
 * Holds the device with work that ends only on `release`, so every wait for the device blocks.
 * Deterministic: the work is a stream that waits for a value in `sleep_persistent` memory.
 */
export function holdDevice(): { release(): void } {
  const allocator = CaMemAllocator.getInstance();
  const acl = openAscendCL(allocator.backend.library);
  const flag = allocator.malloc(4096, { tag: "sleep_persistent" });
  flag.fill(0);
  const handles = new BigUint64Array(2);
  succeed(acl.aclrtSetDevice(0), "aclrtSetDevice");
  const streams = [0, 1].map((index) => {
    succeed(acl.aclrtCreateStream(handles.subarray(index)), "aclrtCreateStream");
    return handles[index] ?? 0n;
  });
  const [waiting = 0n, writing = 0n] = streams;
  const equal = 1;
  succeed(acl.aclrtValueWait(flag.ptr, 1, equal, waiting), "aclrtValueWait");
  return {
    release() {
      succeed(acl.aclrtValueWrite(flag.ptr, 1, 0, writing), "aclrtValueWrite");
      for (const stream of streams) {
        succeed(acl.aclrtSynchronizeStream(stream), "aclrtSynchronizeStream");
        succeed(acl.aclrtDestroyStream(stream), "aclrtDestroyStream");
      }
      succeed(acl.aclrtResetDevice(0), "aclrtResetDevice");
      flag[Symbol.dispose]();
    },
  };
}

let emulatorSymbols: ReturnType<typeof openEmulator> | undefined;

function openEmulator() {
  return openLibrary(emulatorLibraryPath, {
    camem_emulator_set_faults: { args: ["ptr"], returns: "i32" },
    camem_emulator_call_count: { args: ["ptr"], returns: "u64" },
    camem_emulator_accounting: { args: ["ptr"], returns: "i32" },
  });
}

function emulator() {
  emulatorSymbols ??= openEmulator();
  return emulatorSymbols;
}

const cString = (text: string) => Buffer.from(`${text}\0`);

/** Replaces the emulator's faults and starts its call counters anew; an empty text clears them. */
export function setFaults(faults: string): void {
  succeed(emulator().camem_emulator_set_faults(cString(faults)), `setFaults("${faults}")`);
}

/** Calls of an AscendCL function, or with `*` of all, since the last `setFaults`. */
export function callCount(name: string): number {
  return Number(emulator().camem_emulator_call_count(cString(name)));
}

const accountingNames = [
  "initReferences",
  "deviceReferences",
  "contexts",
  "streams",
  "events",
  "physicalHandles",
  "physicalBytes",
  "reservations",
  "reservedBytes",
  "mappings",
  "mappedBytes",
  "deviceAllocations",
  "deviceAllocationBytes",
  "hostAllocations",
  "hostAllocationBytes",
  "hostRegistrations",
  "queuedTasks",
  "keptBytes",
] as const;

export type Accounting = Record<(typeof accountingNames)[number], number>;

/** Objects and bytes that this process holds on the emulated devices. */
export function accounting(): Accounting {
  const values = new BigUint64Array(accountingNames.length);
  succeed(emulator().camem_emulator_accounting(values), "camem_emulator_accounting");
  return Object.fromEntries(
    accountingNames.map((name, index) => [name, Number(values[index])]),
  ) as Accounting;
}

/** The accounting after `close()`. */
export const nothingHeld = Object.fromEntries(accountingNames.map((name) => [name, 0])) as Accounting;
