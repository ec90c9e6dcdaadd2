/** Bindings to the strict runtime: its counters, its faults, and the AscendCL calls of a host engine. */

import { dlopen, type Pointer, toArrayBuffer } from "bun:ffi";
import assert from "node:assert/strict";

const library = process.env["CAMEM_ACL_LIBRARY"] ?? "";

const { symbols } = dlopen(library, {
  strict_report: { args: ["ptr"], returns: "i32" },
  strict_misuse_text: { args: [], returns: "cstring" },
  strict_set_faults: { args: ["ptr"], returns: "i32" },
  strict_set_delay: { args: ["u32"], returns: "i32" },
  aclInit: { args: ["ptr"], returns: "i32" },
  aclFinalize: { args: [], returns: "i32" },
  aclFinalizeReference: { args: ["ptr"], returns: "i32" },
  aclrtSetDevice: { args: ["i32"], returns: "i32" },
  aclrtResetDevice: { args: ["i32"], returns: "i32" },
  aclrtCreateContext: { args: ["ptr", "i32"], returns: "i32" },
  aclrtDestroyContext: { args: ["u64"], returns: "i32" },
  aclrtGetCurrentContext: { args: ["ptr"], returns: "i32" },
  aclrtSetCurrentContext: { args: ["u64"], returns: "i32" },
  aclrtCreateStream: { args: ["ptr"], returns: "i32" },
  aclrtDestroyStream: { args: ["u64"], returns: "i32" },
  aclrtSynchronizeStream: { args: ["u64"], returns: "i32" },
  aclrtMallocHost: { args: ["ptr", "u64"], returns: "i32" },
  aclrtFreeHost: { args: ["u64"], returns: "i32" },
  aclrtMemcpyAsync: { args: ["u64", "u64", "u64", "u64", "i32", "u64"], returns: "i32" },
});

const countNames = [
  "physicalHandles",
  "physicalBytes",
  "reservations",
  "mappings",
  "hostBlocks",
  "hostBytes",
  "streams",
  "events",
  "contexts",
  "deviceReferences",
  "initReferences",
  "queuedCopies",
  "misuses",
  "calls",
] as const;

export type Counts = Record<(typeof countNames)[number], number>;

/** Objects that are alive, and counters of calls and misuses. */
export function counts(): Counts {
  const words = new BigUint64Array(countNames.length);
  assert.equal(symbols.strict_report(words), 0);
  return Object.fromEntries(countNames.map((name, index) => [name, Number(words[index])])) as Counts;
}

/** The part of `counts()` that concerns memory. */
export function memory(): Omit<
  Counts,
  "misuses" | "calls" | "streams" | "events" | "contexts" | "deviceReferences" | "initReferences"
> {
  const { physicalHandles, physicalBytes, reservations, mappings, hostBlocks, hostBytes, queuedCopies } =
    counts();
  return { physicalHandles, physicalBytes, reservations, mappings, hostBlocks, hostBytes, queuedCopies };
}

/** Replaces the faults: `call:number=code`, separated by commas; an empty text clears them. */
export function setFaults(text = ""): void {
  assert.equal(symbols.strict_set_faults(Buffer.from(`${text}\0`)), 0, `cannot read the faults ${text}`);
}

/** Sets how long each wait for a stream takes. */
export function setDelay(milliseconds: number): void {
  symbols.strict_set_delay(milliseconds);
}

/** Fails with the strict runtime's description of each misuse. */
export function assertNoMisuse(when = ""): void {
  if (counts().misuses > 0) assert.fail(`misuse of AscendCL ${when}:\n${symbols.strict_misuse_text()}`);
}

/** Fails when any object is alive. */
export function assertNothingAlive(): void {
  const { misuses: _misuses, calls: _calls, ...alive } = counts();
  for (const [name, count] of Object.entries(alive)) assert.equal(count, 0, `${name} left`);
}

/** Fails when any object is alive or any call was misused. */
export function assertNothingLeft(): void {
  assertNoMisuse();
  assertNothingAlive();
}

const word = new BigUint64Array(1);

function succeed(call: string, code: number): void {
  assert.equal(code, 0, `${call} returned ${code}`);
}

/** AscendCL calls of a host engine in the same process. */
export const host = {
  init(configPath?: string): number {
    return symbols.aclInit(configPath === undefined ? null : Buffer.from(`${configPath}\0`));
  },
  finalize: () => succeed("aclFinalize", symbols.aclFinalize()),
  finalizeReference: () => succeed("aclFinalizeReference", symbols.aclFinalizeReference(null)),
  setDevice: (device: number) => succeed("aclrtSetDevice", symbols.aclrtSetDevice(device)),
  resetDevice: (device: number) => succeed("aclrtResetDevice", symbols.aclrtResetDevice(device)),
  createContext(device: number): bigint {
    succeed("aclrtCreateContext", symbols.aclrtCreateContext(word, device));
    return word[0] ?? 0n;
  },
  destroyContext: (context: bigint) => succeed("aclrtDestroyContext", symbols.aclrtDestroyContext(context)),
  /** The thread's current context, or undefined when it has none. */
  currentContext(): bigint | undefined {
    return symbols.aclrtGetCurrentContext(word) === 0 ? word[0] : undefined;
  },
  setCurrentContext: (context: bigint) =>
    succeed("aclrtSetCurrentContext", symbols.aclrtSetCurrentContext(context)),
  createStream(): bigint {
    succeed("aclrtCreateStream", symbols.aclrtCreateStream(word));
    return word[0] ?? 0n;
  },
  destroyStream: (stream: bigint) => succeed("aclrtDestroyStream", symbols.aclrtDestroyStream(stream)),
  synchronizeStream: (stream: bigint) =>
    succeed("aclrtSynchronizeStream", symbols.aclrtSynchronizeStream(stream)),
  /** Allocates page-locked host memory. */
  mallocHost(sizeBytes: number): { address: bigint; bytes: Uint8Array } {
    succeed("aclrtMallocHost", symbols.aclrtMallocHost(word, sizeBytes));
    const address = word[0] ?? 0n;
    return { address, bytes: new Uint8Array(toArrayBuffer(Number(address) as Pointer, 0, sizeBytes)) };
  },
  freeHost: (address: bigint) => succeed("aclrtFreeHost", symbols.aclrtFreeHost(address)),
  /** Queues a copy to the device; it runs when a caller waits for it. */
  queueToDevice(target: number, source: bigint, sizeBytes: number, stream: bigint): void {
    const code = symbols.aclrtMemcpyAsync(target, sizeBytes, source, sizeBytes, 1, stream);
    succeed("aclrtMemcpyAsync", code);
  },
};
