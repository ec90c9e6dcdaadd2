/** What an engine in another process reports about itself. */

import * as native from "../ffi/index.ts";

/** What the engine's library does when a call touches sleeping memory; see `camem run --on-touch`. */
export type OnTouch = "wake" | "hold" | "fail";

/** An engine under `libcamem_preload.so`, at one moment. */
export interface EngineStatus {
  /** The number of its process, in its own namespace. */
  readonly pid: number;
  /** The name that `camem run --name` gave it, or its program's. */
  readonly name: string;
  /** When its process began, in clock ticks after the machine did; with `pid` it names the process for good. */
  readonly startTime: number;
  /** What a call does that touches sleeping memory: waits for a wake-up that the library begins, waits, or fails. */
  readonly onTouch: OnTouch;
  /**
   * `open`: calls that touch device memory go on; `moving` and `asleep`: they wait; `unstarted`: the engine has not used a device
   * yet, or has let go of it.
   */
  readonly gate: "unstarted" | "open" | "moving" | "asleep";
  /** Calls that wait now. */
  readonly waitingCalls: number;
  /** Calls that found memory asleep, so far. */
  readonly touches: number;
  /** Wake-ups that the library began by itself, so far. */
  readonly ownWakeUps: number;
  /** Why the last of them failed; null when it succeeded. */
  readonly ownWakeUpFailure: string | null;
  /** The engine's live allocations. */
  readonly allocations: number;
  /** Bytes of them. */
  readonly allocatedBytes: number;
  /** Pieces of memory that cannot sleep. */
  readonly pinnedSegments: number;
  /** Bytes of them. */
  readonly pinnedBytes: number;
  /** How the engine bypasses the library; empty when it does not. */
  readonly bypasses: readonly string[];
}

const nameOf = <Name extends string>(names: Readonly<Record<Name, number>>, value: number): Name => {
  const found = (Object.keys(names) as Name[]).find((name) => names[name] === value);
  if (found === undefined) throw new TypeError(`the engine reported ${value}, which none of its enums has`);
  return found;
};

/** @internal */
export function statusOf(info: native.EngineInfo): EngineStatus {
  const { pid, name, startTime, waitingCalls, touches, ownWakeUps, allocations, allocatedBytes } = info;
  return {
    pid,
    name,
    startTime,
    onTouch: nameOf(native.OnTouch, info.onTouch),
    gate: nameOf(native.GateState, info.gate),
    waitingCalls,
    touches,
    ownWakeUps,
    ownWakeUpFailure: info.ownWakeUpStatus === native.Status.ok ? null : info.ownWakeUpMessage,
    allocations,
    allocatedBytes,
    pinnedSegments: info.pinnedSegments,
    pinnedBytes: info.pinnedBytes,
    bypasses: info.bypasses.split("\n").filter((line) => line !== ""),
  };
}

/** How memory was written to, as far as calls show: what kernels write is not seen. */
export type WrittenBy = "host" | "device" | "memset";

/** In the words of rules. */
const writtenBy: Readonly<Record<keyof typeof native.Written, WrittenBy>> = {
  host_copy: "host",
  device_copy: "device",
  memset: "memset",
};

/** Why memory cannot sleep. */
export type PinReason =
  | "exported"
  | "ipc key"
  | "registered"
  | "mapped in part"
  | "special"
  | "rule"
  | "refused";

/** A segment of an engine, or memory that cannot sleep. */
export interface EngineSegmentStatus {
  /** The address on the device. */
  readonly address: number;
  /** The size in bytes. */
  readonly sizeBytes: number;
  /** The device number. */
  readonly device: number;
  /** The tag by which it sleeps; null for memory that cannot. */
  readonly tag: string | null;
  /** Its state; null for memory that cannot sleep. */
  readonly state: "mapped" | "offloaded" | "discarded" | null;
  /** How it was written to so far; empty when it was not. */
  readonly written: readonly WrittenBy[];
  /** The rule that applies, as it was stated; null when none does. */
  readonly rule: string | null;
  /** Why it cannot sleep; null when it can. */
  readonly pinned: PinReason | null;
  /** The engine's allocations in it. */
  readonly allocations: number;
}

type InWords<Name extends string> = Name extends `${infer First}_${infer Rest}`
  ? `${First} ${InWords<Rest>}`
  : Name;

const inWords = <Name extends string>(name: Name) => name.replaceAll("_", " ") as InWords<Name>;

/** @internal */
export function segmentStatusOf(
  segment: native.EngineSegment,
  rules: readonly string[],
  inTable: Pick<EngineSegmentStatus, "tag" | "state"> | undefined,
): EngineSegmentStatus {
  const { address, sizeBytes, device, allocations } = segment;
  const pin = nameOf(native.Pin, segment.pin);
  const kinds = Object.keys(native.Written) as (keyof typeof native.Written)[];
  return {
    address,
    sizeBytes,
    device,
    tag: inTable?.tag ?? null,
    state: inTable?.state ?? null,
    written: kinds
      .filter((kind) => (segment.written & native.Written[kind]) !== 0)
      .map((kind) => writtenBy[kind]),
    rule: rules[segment.rule - 1] ?? null,
    pinned: pin === "none" ? null : inWords(pin),
    allocations,
  };
}
