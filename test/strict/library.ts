/** The strict library seen from a scenario: what it counted, the faults it is to make, and the calls of a host engine. */

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
  "contexts",
  "deviceReferences",
  "initReferences",
  "queuedCopies",
  "misuses",
  "calls",
] as const;

export type Counts = Record<(typeof countNames)[number], number>;

/** What the strict library has counted. */
export function counts(): Counts {
  const words = new BigUint64Array(countNames.length);
  assert.equal(symbols.strict_report(words), 0);
  return Object.fromEntries(countNames.map((name, index) => [name, Number(words[index])])) as Counts;
}

/** What is alive of memory, without the counters. */
export function memory(): Omit<
  Counts,
  "misuses" | "calls" | "streams" | "contexts" | "deviceReferences" | "initReferences"
> {
  const { physicalHandles, physicalBytes, reservations, mappings, hostBlocks, hostBytes, queuedCopies } =
    counts();
  return { physicalHandles, physicalBytes, reservations, mappings, hostBlocks, hostBytes, queuedCopies };
}

/** Faults from now on: `call:number=code`, separated by commas; none by default. */
export function setFaults(text = ""): void {
  assert.equal(symbols.strict_set_faults(Buffer.from(`${text}\0`)), 0, `cannot read the faults ${text}`);
}

/** How long each wait for a stream takes from now on. */
export function setDelay(milliseconds: number): void {
  symbols.strict_set_delay(milliseconds);
}

/** Fails with the strict library's own words when anything was misused. */
export function assertNoMisuse(when = ""): void {
  if (counts().misuses > 0) assert.fail(`misuse of AscendCL ${when}:\n${symbols.strict_misuse_text()}`);
}

/** Fails when anything is alive. */
export function assertNothingAlive(): void {
  const { misuses: _misuses, calls: _calls, ...alive } = counts();
  for (const [name, count] of Object.entries(alive)) assert.equal(count, 0, `${name} left`);
}

/** Fails when anything is alive or was misused. */
export function assertNothingLeft(): void {
  assertNoMisuse();
  assertNothingAlive();
}

const word = new BigUint64Array(1);

function succeed(call: string, code: number): void {
  assert.equal(code, 0, `${call} returned ${code}`);
}

/** A host engine in the same process, which makes AscendCL calls of its own. */
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
  /** Page-locked memory and a view of it. */
  mallocHost(sizeBytes: number): { address: bigint; bytes: Uint8Array } {
    succeed("aclrtMallocHost", symbols.aclrtMallocHost(word, sizeBytes));
    const address = word[0] ?? 0n;
    return { address, bytes: new Uint8Array(toArrayBuffer(Number(address) as Pointer, 0, sizeBytes)) };
  },
  freeHost: (address: bigint) => succeed("aclrtFreeHost", symbols.aclrtFreeHost(address)),
  /** Queues a copy to the device; it runs when somebody waits for it. */
  queueToDevice(target: number, source: bigint, sizeBytes: number, stream: bigint): void {
    const code = symbols.aclrtMemcpyAsync(target, sizeBytes, source, sizeBytes, 1, stream);
    succeed("aclrtMemcpyAsync", code);
  },
};
