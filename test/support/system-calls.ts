/** Makes system calls fail with a seccomp filter, like a full or broken disk: below all code under test. */

import { dlopen, ptr } from "bun:ffi";

const setNoNewPrivileges = 38;
const filterMode = 1;
const allThreads = 1;
const allow = 0x7fff0000;
const failWith = 0x00050000;

export const errno = { io: 5, noMemory: 12, noSpace: 28 } as const;

/** Numbers of the calls, by architecture. */
const numbers = {
  x64: { seccomp: 317, mmap: 9, madvise: 28, pread64: 17, pwrite64: 18, fdatasync: 75, fallocate: 285 },
  arm64: { seccomp: 277, mmap: 222, madvise: 233, pread64: 67, pwrite64: 68, fdatasync: 83, fallocate: 47 },
};

const own = numbers[process.arch === "arm64" ? "arm64" : "x64"];

type SystemCall = Exclude<keyof typeof own, "seccomp">;

export interface FailingCall {
  readonly call: SystemCall;
  readonly errno: number;
  /** Only calls whose argument with this index has this value, below 4 GiB. */
  readonly where?: readonly [argument: number, value: number];
}

// An instruction: code, jump if true, jump if false, operand (linux/filter.h).
type Instruction = readonly [number, number, number, number];

const load = (offset: number): Instruction => [0x20, 0, 0, offset];
const skipUnless = (value: number, skipped: number): Instruction => [0x15, 0, skipped, value];
const conclude = (value: number): Instruction => [0x06, 0, 0, value];

function filterOf({ call, errno: code, where }: FailingCall): Instruction[] {
  const condition = where ? [load(16 + 8 * where[0]), skipUnless(where[1], 1)] : [];
  const then = [...condition, conclude(failWith | code)];
  return [load(0), skipUnless(own[call], then.length), ...then, conclude(allow)];
}

/** Makes the call fail from now on, on every thread. Cannot be undone, so use it in a process of its own. */
export function failSystemCall(failing: FailingCall): void {
  const { symbols } = dlopen("libc.so.6", {
    prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" },
    syscall: { args: ["i64", "i64", "i64", "ptr"], returns: "i64" },
  });
  const instructions = filterOf(failing);
  const code = new DataView(new ArrayBuffer(8 * instructions.length));
  for (const [index, [operation, ifTrue, ifFalse, operand]] of instructions.entries()) {
    code.setUint16(8 * index, operation, true);
    code.setUint8(8 * index + 2, ifTrue);
    code.setUint8(8 * index + 3, ifFalse);
    code.setUint32(8 * index + 4, operand, true);
  }
  const program = new DataView(new ArrayBuffer(16));
  program.setUint16(0, instructions.length, true);
  program.setBigUint64(8, BigInt(ptr(code)), true);
  if (symbols.prctl(setNoNewPrivileges, 1, 0, 0, 0) !== 0) throw new Error("prctl failed");
  if (Number(symbols.syscall(own.seccomp, filterMode, allThreads, ptr(program))) !== 0)
    throw new Error("this system refuses seccomp filters");
}
