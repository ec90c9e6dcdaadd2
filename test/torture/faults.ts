/** Random faults: of AscendCL's calls, of the C library's allocations and of its threads. */

import { dlopen } from "bun:ffi";
import type { CamemError, CamemErrorCode } from "camem";
import { symbolList } from "../../src/ffi/index.ts";
import type { Random } from "../fuzz/random.ts";
import { setFaults } from "../support/device.ts";

const { symbols: preload } = dlopen(process.env["LD_PRELOAD"] ?? "", {
  torture_set_fault: { args: ["i32", "u64", "i32"], returns: "void" },
  torture_calls: { args: ["i32"], returns: "u64" },
  torture_replaced_entries: { args: [], returns: "i32" },
  torture_start_threads: { args: ["i32", "u32"], returns: "i32" },
  torture_stop_threads: { args: [], returns: "void" },
});

const allocations = 0;
const threads = 1;

/** Calls that libcamem.so has made since faults were last armed or disarmed. */
export const libraryCalls = {
  allocations: () => Number(preload.torture_calls(allocations)),
  threads: () => Number(preload.torture_calls(threads)),
};

/** Native threads that call `my_malloc` and `my_free` without pause. */
export const nativeThreads = {
  start: (count: number, seed: number): number => preload.torture_start_threads(count, seed),
  stop: (): void => preload.torture_stop_threads(),
};

const outOfMemory = 207001;
const invalidParameter = 107000;
const noContext = 107002;
const heartbeatLost = 507010;
const codes = [
  outOfMemory,
  507899,
  heartbeatLost,
  noContext,
  107017,
  507018,
  507000,
  207005,
  999999,
] as const;

/** What an injected code may be reported as; anything else is `ACL_CALL_FAILED`. */
const reportedAs = new Map<number, readonly CamemErrorCode[]>([
  [outOfMemory, ["OUT_OF_DEVICE_MEMORY", "OUT_OF_HOST_MEMORY"]],
  [heartbeatLost, ["DEVICE_LOST"]],
]);

/** Calls that mean something else than a failure where they return this code. */
const notices: Readonly<Record<string, readonly number[]>> = {
  // The context is dead: the device was reset by somebody, and its memory with it.
  aclrtSetCurrentContext: [invalidParameter],
  // Somebody else has initialised AscendCL.
  aclInit: [100000, 100002],
};

let callNames: readonly string[] | undefined;

/** The functions that the shim calls and that can fail; needs an open allocator the first time. */
export function findCalls(): void {
  callNames ??= symbolList()
    .map(({ name }) => name)
    .filter((name) => {
      try {
        setFaults(`${name}:1=${outOfMemory}`);
        return true;
      } catch {
        return false;
      } finally {
        setFaults("");
      }
    });
  if (callNames.length < 20) throw new Error(`only ${callNames} can fail`);
  if (preload.torture_replaced_entries() < 3) throw new Error("libcamem.so was not taken over");
}

interface CallFault {
  readonly call: string;
  readonly code: number;
  readonly text: string;
}

interface LibraryFault {
  readonly target: typeof allocations | typeof threads;
  readonly nth: number;
  readonly onward: boolean;
}

export class Faults {
  readonly calls: readonly CallFault[];
  readonly library: readonly LibraryFault[];

  constructor(calls: readonly CallFault[], library: readonly LibraryFault[]) {
    this.calls = calls;
    this.library = library;
  }

  get isEmpty(): boolean {
    return this.calls.length + this.library.length === 0;
  }

  toString(): string {
    const names = { [allocations]: "malloc", [threads]: "pthread_create" };
    const library = this.library.map(
      ({ target, nth, onward }) => `${names[target]}:${nth}${onward ? "+" : ""}`,
    );
    return [...this.calls.map(({ text }) => text), ...library].join(",");
  }

  arm(): void {
    disarm();
    setFaults(this.calls.map(({ text }) => text).join(","));
    for (const { target, nth, onward } of this.library)
      preload.torture_set_fault(target, nth, Number(onward));
  }

  /** Whether an error is one that these faults explain. */
  explain({ code, call, aclCode, cause }: CamemError): boolean {
    // A load that could not free what it had allocated: why it failed is the first cause.
    if (cause instanceof AggregateError)
      return cause.errors[0]?.code === code && this.explain(cause.errors[0]);
    if (this.library.length > 0 && code === "OUT_OF_HOST_MEMORY") return true;
    const injected = this.calls.find((fault) => fault.code === aclCode);
    if (injected === undefined || call === undefined) return false;
    if (code === "BACKEND_UNAVAILABLE") return true;
    return (reportedAs.get(injected.code) ?? ["ACL_CALL_FAILED"]).includes(code);
  }
}

export function callFault(call: string, nth: number, onward: boolean, code: number): CallFault {
  return { call, code, text: `${call}:${nth}${onward ? "+" : ""}=${code}` };
}

export const allocationFault = (nth: number, onward: boolean): LibraryFault => ({
  target: allocations,
  nth,
  onward,
});

export const threadFault = (nth: number, onward: boolean): LibraryFault => ({ target: threads, nth, onward });

export const noFaults = new Faults([], []);

export function disarm(): void {
  setFaults("");
  for (const target of [allocations, threads]) preload.torture_set_fault(target, 0, 0);
}

function randomCallFault(random: Random): CallFault {
  const call = pickCall(random);
  const code = random.pick(codes.filter((each) => !notices[call]?.includes(each)));
  const nth = random.oneIn(2) ? 1 : random.magnitude(1, call === "*" ? 80 : 12);
  return callFault(call, nth, random.oneIn(3), code);
}

function pickCall(random: Random): string {
  if (random.oneIn(4)) return "*";
  if (random.oneIn(10)) return "aclrtMemcpyAsync.task";
  // The calls of a context are in front of every other call.
  if (random.oneIn(5))
    return random.pick(["aclrtGetCurrentContext", "aclrtSetCurrentContext", "aclrtSetDevice"]);
  return random.pick(callNames ?? ["*"]);
}

function randomLibraryFault(random: Random): LibraryFault {
  const onward = random.oneIn(3);
  if (random.oneIn(4)) return threadFault(random.between(1, 2), onward);
  return allocationFault(random.magnitude(1, 40), onward);
}

/** None every other time. */
export function randomFaults(random: Random): Faults {
  if (random.oneIn(2)) return noFaults;
  const library = random.oneIn(2) ? [randomLibraryFault(random)] : [];
  const count = library.length > 0 ? random.pick([0, 0, 1]) : random.pick([1, 1, 1, 2, 2, 3]);
  return new Faults(
    Array.from({ length: count }, () => randomCallFault(random)),
    library,
  );
}
