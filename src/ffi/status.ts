/** Calls the shim and turns its statuses into errors. */

import { CamemError, type CamemErrorCode } from "../errors.ts";
import { formatSize } from "../options/sizes.ts";
import { type Decoded, decode, readU64 } from "./struct.ts";
import * as abi from "./symbols.gen.ts";

export type Failure = Decoded<typeof abi.Failure>;

type StatusName = keyof typeof abi.Status;

/** The out-parameter of exports that report a failure. */
export const failureBytes = new Uint8Array(abi.Failure.sizeBytes);

/** The out-parameter of exports that return a number. */
export const firstResult = new Uint8Array(8);
/** The second out-parameter of exports that return two numbers. */
export const secondResult = new Uint8Array(8);

const firstView = new DataView(firstResult.buffer);
const secondView = new DataView(secondResult.buffer);

/** The `u64` that the last export wrote to {@link firstResult}. */
export function takeFirst(): number {
  return readU64(firstView, 0);
}

/** The `u32` that the last export wrote to {@link firstResult}. */
export function takeFirstU32(): number {
  return firstView.getUint32(0, true);
}

/** The `u64` that the last export wrote to {@link secondResult}. */
export function takeSecond(): number {
  return readU64(secondView, 0);
}

export function takeFailure(): Failure {
  return decode(abi.Failure, failureBytes);
}

function statusName(status: number): StatusName {
  const found = Object.entries(abi.Status).find(([, value]) => value === status);
  if (!found) throw new TypeError(`libcamem.so returned the unknown status ${status}: rebuild it`);
  return found[0] as StatusName;
}

const codes: Record<Exclude<StatusName, "ok" | "busy" | "stale">, CamemErrorCode> = {
  invalid_argument: "INVALID_ARGUMENT",
  invalid_size: "INVALID_SIZE",
  unknown_device: "UNKNOWN_DEVICE",
  unknown_tag: "UNKNOWN_TAG",
  unknown_segment: "BUFFER_FREED",
  out_of_bounds: "OUT_OF_BOUNDS",
  asleep: "BUFFER_ASLEEP",
  moving: "BUFFER_MOVING",
  config_conflict: "CONFIG_CONFLICT",
  not_open: "CLOSED",
  library_not_found: "LIBRARY_NOT_FOUND",
  library_invalid: "LIBRARY_INVALID",
  backend_unavailable: "BACKEND_UNAVAILABLE",
  device_lost: "DEVICE_LOST",
  out_of_device_memory: "OUT_OF_DEVICE_MEMORY",
  out_of_host_memory: "OUT_OF_HOST_MEMORY",
  acl_call_failed: "ACL_CALL_FAILED",
  aborted: "ABORTED",
  backup_corrupt: "BACKUP_CORRUPT",
  no_backup: "NO_BACKUP",
  immutable: "BUFFER_IMMUTABLE",
  file_failed: "FILE_FAILED",
  file_changed: "FILE_CHANGED",
  engine_not_found: "ENGINE_NOT_FOUND",
  engine_refused: "ENGINE_REFUSED",
  engine_gone: "ENGINE_GONE",
};

const hints: Partial<Record<CamemErrorCode, string>> = {
  BUFFER_ASLEEP: "it is asleep; call wakeUp first",
  BUFFER_MOVING: "a sleep or wake-up is moving it; await that first, or ready() of a wake-up with an order",
  BUFFER_FREED: "it has been freed",
  CLOSED: "the allocator is closed; call CaMemAllocator.getInstance() again",
  UNKNOWN_DEVICE: "there is no such device; `camem doctor` lists them",
  OUT_OF_DEVICE_MEMORY: "the device has too little free memory; free some or put some to sleep",
  OUT_OF_HOST_MEMORY: "the host cannot page-lock enough memory; free some or discard more",
  NO_BACKUP: "only offloaded memory has a backup",
  BUFFER_IMMUTABLE: "its tag is immutable; call markDirty(tag) before writing to it",
  FILE_CHANGED: "the checkpoint must stay as it was loaded",
  ENGINE_NOT_FOUND: "`camem status` lists the engines on this machine",
  ENGINE_REFUSED: "an engine serves its own user and root, and the version of camem that it was started with",
  ENGINE_GONE: "the engine has ended, or is stopped and does not answer; `camem status` lists those that run",
  DEVICE_LOST: "the device, its link or its memory has failed; see `npu-smi info` and restart the process",
};

const addressSpaceHint =
  "the device cannot reserve that much address space at once, however much memory is free; allocate several smaller buffers";

/** The result of every call of the library that CANN ships for linking only. */
const stubLibraryCode = 100039;
const stubLibraryHint =
  "this is the stub library of CANN's devlib folder, which is for linking only; remove that folder from LD_LIBRARY_PATH and source set_env.sh";

/** The parts of an error's message besides the failure itself. */
interface ErrorContext {
  /** The attempted operation, after "cannot". */
  readonly attempt: string;
  /** Replaces the usual hint of the code. */
  readonly note?: string | undefined;
  readonly transitionComplete?: boolean;
}

/** The hint for a failure whose call or code is more specific than its kind. */
function causeHint({ call, aclCode }: Failure, code: CamemErrorCode): string | undefined {
  if (aclCode === stubLibraryCode) return stubLibraryHint;
  return call === "aclrtReserveMemAddress" && code === "OUT_OF_DEVICE_MEMORY" ? addressSpaceHint : undefined;
}

/** The error for a failed status: the attempt, the AscendCL call and its code, and a hint. */
export function statusError(status: number, failure: Failure, context: ErrorContext): CamemError {
  const name = statusName(status);
  if (name === "ok" || name === "busy" || name === "stale")
    throw new TypeError(`the status ${name} is no failure`);
  const code = codes[name];
  const note = causeHint(failure, code) ?? context.note ?? hints[code];
  const parts = [`cannot ${context.attempt}`, describeCall(failure), failure.message.trim(), note ?? ""];
  return new CamemError(code, parts.filter((part) => part !== "").join(": "), {
    ...(failure.call === "" ? {} : { call: failure.call, aclCode: failure.aclCode }),
    ...(failure.sizeBytes === 0 ? {} : { sizeBytes: failure.sizeBytes }),
    ...(failure.sizeBytes === 0 || failure.address === 0 ? {} : { address: failure.address }),
    transitionComplete: context.transitionComplete ?? false,
  });
}

export function formatAddress(address: number): string {
  return `0x${address.toString(16)}`;
}

function describeCall({ call, aclCode, address, sizeBytes }: Failure): string {
  if (call === "" || aclCode === 0) return call;
  const place = address > 0 ? ` at ${formatAddress(address)}` : "";
  const where = sizeBytes > 0 ? ` for ${formatSize(sizeBytes)}${place}` : "";
  return `${call} returned ${aclCode}${where}`;
}

/**
 * Clears the failure, calls an export and throws for any status but success.
 *
 * @param attempt the operation after "cannot"; a function, where the text takes time to build
 */
export function check(attempt: string | (() => string), call: () => number, note?: string): void {
  failureBytes.fill(0);
  const status = call();
  if (status === abi.Status.ok) return;
  const text = typeof attempt === "string" ? attempt : attempt();
  throw statusError(status, takeFailure(), { attempt: text, note });
}

/** Like {@link check}, for exports that write no failure; `accepted` are further statuses of success. */
export function checkStatus(attempt: string, status: number, accepted: readonly number[] = []): void {
  if (status === abi.Status.ok || accepted.includes(status)) return;
  failureBytes.fill(0);
  throw statusError(status, takeFailure(), { attempt });
}
