import { dlopen } from "bun:ffi";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { CamemError, type CamemErrorCode } from "../errors.ts";
import { formatSize } from "../options/sizes.ts";
import { longestTagBytes } from "../policy/tags.ts";
import { type Decoded, decode, readU64, writeU64 } from "./struct.ts";
import * as abi from "./symbols.gen.ts";

export type SegmentSnapshot = Decoded<typeof abi.SegmentInfo>;
export type PlanProgress = Decoded<typeof abi.PlanProgress>;
export type RuntimeInfo = Decoded<typeof abi.RuntimeInfo>;
export type MemoryInfo = Decoded<typeof abi.MemoryInfo>;
export type Failure = Decoded<typeof abi.Failure>;
export type HostInfo = Decoded<typeof abi.HostInfo>;
export type TagUsage = Decoded<typeof abi.TagUsage>;
export type Portion = Decoded<typeof abi.Portion>;
export { Phase, SegmentState, Status } from "./symbols.gen.ts";

/** Names a segment for good: an address may be given out again, an id never. */
export interface SegmentName {
  readonly address: number;
  readonly segmentId: number;
}

/** One step of a plan, for the segments of one portion. */
export interface PlanStep {
  readonly portion: {
    readonly segments: number;
    readonly segmentBytes: number;
    readonly tagId: number;
    readonly device: number;
    readonly state: keyof typeof abi.SegmentState;
    readonly unreleased: boolean;
    readonly clean: boolean;
    readonly backedUp: boolean;
  };
  readonly action: keyof typeof abi.Action;
  readonly immutable: boolean;
  readonly spilledSegments: number;
}

type StatusName = keyof typeof abi.Status;

const hex = (address: number) => `0x${address.toString(16)}`;
const reportBytes = 16 * 1024;

/** Where this platform's libraries are: the same folder in a checkout (`zig build` fills it) and in the package. */
const nativeFolder = join(import.meta.dir, "../../native", `${process.platform}-${process.arch}`);
export const emulatorLibraryPath = join(nativeFolder, "emulator/libascendcl.so");
export const shimPath = join(nativeFolder, "libcamem.so");

function openShim() {
  if (!existsSync(shimPath))
    throw new CamemError(
      "LIBRARY_NOT_FOUND",
      `${shimPath} does not exist: camem ships its shim for linux-x64 and linux-arm64 with glibc; in a checkout, run "bun run build"`,
    );
  try {
    return dlopen(shimPath, abi.symbols).symbols;
  } catch (cause) {
    throw new CamemError(
      "LIBRARY_INVALID",
      `${shimPath} cannot be opened: ${cause}; it needs glibc 2.28 or newer`,
      {
        cause,
      },
    );
  }
}

let shim: ReturnType<typeof openShim> | undefined;

/** The shim's exports; opened on first use, once per process. */
function exports() {
  shim ??= openShim();
  return shim;
}

const failureBytes = new Uint8Array(abi.Failure.sizeBytes);

/** One small out-parameter. */
const wordBytes = new Uint8Array(8);
const word = new DataView(wordBytes.buffer);

/** Another one. */
const idBytes = new Uint8Array(8);
const id = new DataView(idBytes.buffer);

function takeWord(): number {
  return readU64(word, 0);
}

function takeFailure(): Failure {
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
};

const mends: Partial<Record<CamemErrorCode, string>> = {
  BUFFER_ASLEEP: "it is asleep; call wakeUp first",
  BUFFER_MOVING: "a sleep or wake-up is moving it; await that first",
  BUFFER_FREED: "it has been freed",
  CLOSED: "the allocator is closed; call CaMemAllocator.getInstance() again",
  UNKNOWN_DEVICE: "there is no such device; `camem doctor` lists them",
  OUT_OF_DEVICE_MEMORY: "the device has too little free memory; free some or let something sleep",
  OUT_OF_HOST_MEMORY: "the host has too little memory that can be page-locked; free some or discard more",
  NO_BACKUP: "only memory that is offloaded has a backup",
  BUFFER_IMMUTABLE: "its tag is immutable; call markDirty(tag) before writing to it",
  FILE_CHANGED: "the checkpoint has to stay as it was loaded",
  DEVICE_LOST: "the device, its link or its memory has failed; see `npu-smi info` and restart the process",
};

/** What every call of the library returns that CANN ships for linking only. */
const stubLibrary = 100039;
const stubMend =
  "this is the stub library of CANN's devlib folder, which is for linking only; take that folder off LD_LIBRARY_PATH and source set_env.sh";

/** What an error says beside the failure itself. */
interface ErrorContext {
  /** What was attempted, after "cannot". */
  readonly attempt: string;
  /** What to do, or what has become of it, instead of the code's usual advice. */
  readonly note?: string | undefined;
  readonly transitionComplete?: boolean;
}

/** The error for a failed status: what was attempted, the AscendCL call and code where there is one, and the mend. */
export function statusError(status: number, failure: Failure, context: ErrorContext): CamemError {
  const name = statusName(status);
  if (name === "ok" || name === "busy" || name === "stale")
    throw new TypeError(`the status ${name} is no failure`);
  const code = codes[name];
  const note = failure.aclCode === stubLibrary ? stubMend : (context.note ?? mends[code]);
  const parts = [`cannot ${context.attempt}`, describeCall(failure), failure.message.trim(), note ?? ""];
  return new CamemError(code, parts.filter((part) => part !== "").join(": "), {
    ...(failure.call === "" ? {} : { call: failure.call, aclCode: failure.aclCode }),
    ...(failure.sizeBytes === 0 ? {} : { address: failure.address, sizeBytes: failure.sizeBytes }),
    transitionComplete: context.transitionComplete ?? false,
  });
}

function describeCall({ call, aclCode, address, sizeBytes }: Failure): string {
  if (call === "" || aclCode === 0) return call;
  const where = sizeBytes > 0 ? ` for ${formatSize(sizeBytes)} at ${hex(address)}` : "";
  return `${call} returned ${aclCode}${where}`;
}

/**
 * Calls an export after clearing the failure that it may write; throws for any status but success. What was attempted is put
 * into words only then.
 */
function check(attempt: string | (() => string), call: () => number, note?: string): void {
  failureBytes.fill(0);
  const status = call();
  if (status === abi.Status.ok) return;
  const words = typeof attempt === "string" ? attempt : attempt();
  throw statusError(status, takeFailure(), { attempt: words, note });
}

/** Attaches this Worker to AscendCL; `libraryPath` null searches for it. */
export function attach(libraryPath: string | null): void {
  const path = libraryPath === null ? null : Buffer.from(`${libraryPath}\0`);
  failureBytes.fill(0);
  const status = exports().camem_attach(path, failureBytes);
  if (status === abi.Status.ok) return;
  if (status === abi.Status.busy)
    throw new CamemError(
      "CLOSED",
      "the allocator of this process is just being closed; await its close() first",
    );
  const mend =
    status === abi.Status.backend_unavailable
      ? "the library itself was found and opened; `camem doctor` tells more"
      : libraryPath === null
        ? "install CANN and source its set_env.sh, name the library in CAMEM_ACL_LIBRARY, or set CAMEM_BACKEND=emulator to work without an NPU; tried were"
        : "name a libascendcl.so or libacl_rt.so in CAMEM_ACL_LIBRARY, or leave it out to search for one";
  const failure = takeFailure();
  if (status === abi.Status.config_conflict)
    throw new CamemError(
      "CONFIG_CONFLICT",
      `cannot open ${libraryPath ?? "AscendCL"}: this process already uses ${failure.message}; give every Worker the same options, or close that allocator first`,
    );
  const tried =
    libraryPath === null
      ? loadReport().map(
          ({ path, result }) => `
  ${path}: ${result}`,
        )
      : [];
  const attempt = `use ${libraryPath ?? "AscendCL"}`;
  throw statusError(status, failure, { attempt, note: [mend, ...tried].join("") });
}

/** Every library path tried by the last `attach`, with its result. */
export function loadReport(): { path: string; result: string }[] {
  const buffer = new Uint8Array(reportBytes);
  check("read the report of the loader", () => exports().camem_load_report(buffer, buffer.length, wordBytes));
  const lines = new TextDecoder().decode(buffer.subarray(0, takeWord())).trimEnd().split("\n");
  return lines.map((line) => {
    const [path = "", result = ""] = line.split("\t");
    return { path, result: result.replace(`${path}: `, "") };
  });
}

/** Gives up this Worker's attachment and waits, without blocking, until everything is released if it was the last. */
export async function detach(): Promise<void> {
  check("close", () => exports().camem_detach(wordBytes));
  const closing = takeWord();
  while (closing !== 0 && !pollClosing(closing)) await Bun.sleep(1);
}

/** Gives up an attachment that nothing has used, for which there is next to nothing to wait. */
export function abandonAttachment(): void {
  check("close", () => exports().camem_detach(wordBytes));
  const closing = takeWord();
  while (closing !== 0 && !pollClosing(closing)) Bun.sleepSync(1);
}

function pollClosing(closing: number): boolean {
  check(
    "give everything back while closing",
    () => exports().camem_detach_poll(closing, wordBytes, failureBytes),
    "what could be returned has been; call close() again for the rest",
  );
  return word.getUint32(0, true) === 1;
}

export function runtimeInfo(): RuntimeInfo {
  const bytes = new Uint8Array(abi.RuntimeInfo.sizeBytes);
  check("read the runtime's properties", () => exports().camem_runtime_info(bytes));
  return decode(abi.RuntimeInfo, bytes);
}

/** The AscendCL symbols that the shim uses. */
export function symbolList(): { name: string; required: boolean; present: boolean }[] {
  const buffer = new Uint8Array(reportBytes);
  check("list symbols", () => exports().camem_symbols(buffer, buffer.length, wordBytes));
  const lines = new TextDecoder().decode(buffer.subarray(0, takeWord())).trimEnd().split("\n");
  return lines.map((line) => {
    const [name = "", kind, presence] = line.split("\t");
    return { name, required: kind === "required", present: presence === "present" };
  });
}

export function memoryInfo(device: number): MemoryInfo {
  const bytes = new Uint8Array(abi.MemoryInfo.sizeBytes);
  check(
    () => `read the free memory of device ${device}`,
    () => exports().camem_memory_info(device, bytes, failureBytes),
  );
  return decode(abi.MemoryInfo, bytes);
}

/** The shim's number of a tag name. */
export function internTag(name: string): number {
  const bytes = Buffer.from(name);
  check(
    () => `use the tag "${name}"`,
    () => exports().camem_tag_intern(bytes, bytes.length, wordBytes),
  );
  return word.getUint32(0, true);
}

export function tagName(tag: number): string {
  const bytes = new Uint8Array(longestTagBytes);
  check(
    () => `name the tag ${tag}`,
    () => exports().camem_tag_name(tag, bytes, wordBytes),
  );
  return new TextDecoder().decode(bytes.subarray(0, takeWord()));
}

/** Opens a region whose tag native allocations carry; returns the token that closes it. */
export function enterRegion(tag: number): number {
  check("enter a memory pool", () => exports().camem_region_enter(tag, wordBytes));
  return takeWord();
}

/** Closes a region; one that ended with its allocator is closed already. */
export function leaveRegion(token: number): void {
  const status = exports().camem_region_leave(token);
  if (status === abi.Status.ok || status === abi.Status.not_open || status === abi.Status.invalid_argument)
    return;
  throw statusError(status, takeFailure(), { attempt: "leave a memory pool" });
}

export function allocateSegment(device: number, tag: number, sizeBytes: number): SegmentName {
  check(
    () => `allocate ${formatSize(sizeBytes)} on device ${device}`,
    () => exports().camem_segment_allocate(device, tag, sizeBytes, wordBytes, idBytes, failureBytes),
  );
  return { address: takeWord(), segmentId: readU64(id, 0) };
}

export function freeSegment({ address, segmentId }: SegmentName): void {
  check(
    () => `free the buffer at ${hex(address)}`,
    () => exports().camem_segment_free(address, segmentId, failureBytes),
  );
}

/** What the table says of a segment, or undefined when it is no more. */
export function segmentInfo({ address, segmentId }: SegmentName): SegmentSnapshot | undefined {
  const bytes = new Uint8Array(abi.SegmentInfo.sizeBytes);
  if (exports().camem_segment_info(address, segmentId, bytes) !== abi.Status.ok) return undefined;
  return decode(abi.SegmentInfo, bytes);
}

/** The whole table of segments in the order of their allocation. */
export function snapshot(): SegmentSnapshot[] {
  const size = abi.SegmentInfo.sizeBytes;
  const bytes = table(size, (buffer, capacity) => exports().camem_snapshot(buffer, capacity, wordBytes));
  return Array.from({ length: bytes.length / size }, (_, index) =>
    decode(abi.SegmentInfo, bytes, index * size),
  );
}

/** Which table a plan was made for. */
export interface PlanBasis {
  /** Younger segments are left as they are. */
  readonly lastSegmentId: number;
  readonly version: number;
}

/** Sums of the table for planning, of segments with ids up to `lastSegmentId`. */
export function portions(lastSegmentId: number): { portions: Portion[]; version: number } {
  const size = abi.Portion.sizeBytes;
  const bytes = table(size, (buffer, capacity) =>
    exports().camem_portions(lastSegmentId, buffer, capacity, wordBytes, idBytes),
  );
  const words = new Uint32Array(bytes.buffer, 0, bytes.length / Uint32Array.BYTES_PER_ELEMENT);
  const found: Portion[] = [];
  for (let at = 0; at < words.length; at += size / Uint32Array.BYTES_PER_ELEMENT)
    found.push(abi.readPortion(words, at));
  return { portions: found, version: readU64(id, 0) };
}

/** Sums of the table, by tag; tags without a segment are among them. */
export function usage(): TagUsage[] {
  const size = abi.TagUsage.sizeBytes;
  const bytes = table(size, (buffer, capacity) => exports().camem_usage(buffer, capacity, wordBytes));
  return Array.from({ length: bytes.length / size }, (_, index) => decode(abi.TagUsage, bytes, index * size));
}

/** Room for a few more entries than there were the last time. */
let tableCapacity = 64;

/** What an export wrote that fills a buffer of as many entries as there are, with their number in `wordBytes`. */
function table(entryBytes: number, fill: (buffer: Uint8Array, capacity: number) => number): Uint8Array {
  while (true) {
    const capacity = tableCapacity;
    const bytes = new Uint8Array(capacity * entryBytes);
    check("read the table of segments", () => fill(bytes, capacity));
    const count = takeWord();
    if (count <= capacity) return bytes.subarray(0, count * entryBytes);
    tableCapacity = count + Math.ceil(count / 4);
  }
}

export function writeSegment(
  { address, segmentId }: SegmentName,
  offsetBytes: number,
  source: Uint8Array,
): void {
  check(
    () => `write ${formatSize(source.length)} at ${hex(address + offsetBytes)}`,
    () => exports().camem_segment_write(address, segmentId, offsetBytes, source, source.length, failureBytes),
  );
}

export function readSegment(
  { address, segmentId }: SegmentName,
  offsetBytes: number,
  target: Uint8Array,
): void {
  check(
    () => `read ${formatSize(target.length)} at ${hex(address + offsetBytes)}`,
    () => exports().camem_segment_read(address, segmentId, offsetBytes, target, target.length, failureBytes),
  );
}

export function fillSegment(
  { address, segmentId }: SegmentName,
  offsetBytes: number,
  sizeBytes: number,
  value: number,
): void {
  check(
    () => `fill ${formatSize(sizeBytes)} at ${hex(address + offsetBytes)}`,
    () => exports().camem_segment_fill(address, segmentId, offsetBytes, sizeBytes, value, failureBytes),
  );
}

export function readBackup(
  { address, segmentId }: SegmentName,
  offsetBytes: number,
  target: Uint8Array,
): void {
  check(
    () => `read the backup of ${hex(address)}`,
    () => exports().camem_backup_read(address, segmentId, offsetBytes, target, target.length, failureBytes),
  );
}

/** Why a plan was not started: another one runs, or the table has changed since it was made. */
export type Refusal = "busy" | "stale";

/**
 * Starts a plan on the shim's thread and returns its ticket; what was allocated or freed since the portions were read is left
 * out. Refused, with nothing changed, when the table has changed otherwise or another Worker's plan runs: plan anew.
 */
export function submitPlan(steps: readonly PlanStep[], basis: PlanBasis, verify: boolean): number | Refusal {
  const { sizeBytes, fields } = abi.PlanStep;
  const bytes = new Uint8Array(steps.length * sizeBytes);
  const view = new DataView(bytes.buffer);
  for (const [index, { portion, action, immutable, spilledSegments }] of steps.entries()) {
    const start = index * sizeBytes;
    const set = (field: keyof typeof fields, value: number) =>
      view.setUint32(start + fields[field].offset, value, true);
    writeU64(view, start + fields.segments.offset, portion.segments);
    writeU64(view, start + fields.spilledSegments.offset, spilledSegments);
    writeU64(view, start + fields.segmentBytes.offset, portion.segmentBytes);
    set("tag", portion.tagId);
    set("device", portion.device);
    set("state", abi.SegmentState[portion.state]);
    set("unreleased", Number(portion.unreleased));
    set("clean", Number(portion.clean));
    set("backedUp", Number(portion.backedUp));
    set("action", abi.Action[action]);
    set("immutable", Number(immutable));
  }
  return ticketOf(
    exports().camem_plan_submit(
      bytes,
      steps.length,
      basis.lastSegmentId,
      basis.version,
      Number(verify),
      wordBytes,
    ),
  );
}

/** Starts page-locking host memory until `freeBytes` are free for the next sleep. */
export function submitPreparation(device: number, freeBytes: number): number | Refusal {
  return ticketOf(exports().camem_host_prepare(device, freeBytes, wordBytes));
}

function ticketOf(status: number): number | Refusal {
  if (status === abi.Status.busy) return "busy";
  if (status === abi.Status.stale) return "stale";
  failureBytes.fill(0);
  if (status !== abi.Status.ok) throw statusError(status, takeFailure(), { attempt: "start a plan" });
  return takeWord();
}

/** The page-locked host memory there is. */
export function hostInfo(): HostInfo {
  const bytes = new Uint8Array(abi.HostInfo.sizeBytes);
  check("read the state of host memory", () => exports().camem_host_info(bytes));
  return decode(abi.HostInfo, bytes);
}

/** Sets how much page-locked memory is kept while nothing needs it. */
export function retainHost(sizeBytes: number): void {
  check("set how much host memory is kept", () => exports().camem_host_retain(sizeBytes));
}

/** Sets where spill files are made. */
export function setSpillFolder(path: string): void {
  const bytes = Buffer.from(path);
  check(
    () => `spill to ${path}`,
    () => exports().camem_spill_folder(bytes, bytes.length),
  );
}

/** Declares the content of a tag's segments final, or ends that. */
export function sealTag(tag: number, name: string, sealed: boolean): void {
  const attempt = sealed ? `make "${name}" immutable` : `mark "${name}" as dirty`;
  check(attempt, () => exports().camem_tag_seal(tag, Number(sealed)));
}

/** Where a piece of a segment's content lies in a checkpoint. */
export interface CheckpointExtent {
  readonly segmentOffsetBytes: number;
  readonly fileOffsetBytes: number;
  readonly sizeBytes: number;
}

/** Takes hold of a checkpoint by the descriptor it is open with; dispose of it when its extents were given to segments. */
export function openCheckpoint(descriptor: number): Disposable & { readonly handle: number } {
  check("use the checkpoint as a backup", () =>
    exports().camem_checkpoint_open(descriptor, wordBytes, failureBytes),
  );
  const handle = takeWord();
  return { handle, [Symbol.dispose]: () => void exports().camem_checkpoint_close(handle) };
}

/** Makes a checkpoint the backup of a segment. */
export function useCheckpoint(
  { address, segmentId }: SegmentName,
  handle: number,
  extents: readonly CheckpointExtent[],
): void {
  const words = new BigUint64Array(
    extents.flatMap((extent) => [
      BigInt(extent.segmentOffsetBytes),
      BigInt(extent.fileOffsetBytes),
      BigInt(extent.sizeBytes),
    ]),
  );
  check("use the checkpoint as a backup", () =>
    exports().camem_segment_use_checkpoint(address, segmentId, handle, words, extents.length, failureBytes),
  );
}

const progressWords = new Uint32Array(abi.PlanProgress.sizeBytes / Uint32Array.BYTES_PER_ELEMENT);

/** How far a plan is; undefined when it ended so long ago that it is forgotten. Its failure is there once it is done. */
export function pollPlan(ticket: number): PlanProgress | undefined {
  failureBytes.fill(0);
  const status = exports().camem_plan_poll(ticket, progressWords, failureBytes);
  if (status === abi.Status.stale) return undefined;
  if (status !== abi.Status.ok) throw statusError(status, takeFailure(), { attempt: "follow a plan" });
  return abi.readPlanProgress(progressWords, 0);
}

/** Returns when a plan is done, or soon: this blocks the event loop for `microseconds` at most. */
export function awaitPlan(ticket: number, microseconds: number): void {
  const status = exports().camem_plan_wait(ticket, microseconds * 1000);
  if (status === abi.Status.ok || status === abi.Status.stale) return;
  failureBytes.fill(0);
  throw statusError(status, takeFailure(), { attempt: "follow a plan" });
}

/** The failure of the plan that was polled last, and is done. */
export function planFailure(): Failure {
  return takeFailure();
}

/** Asks a plan to stop; one that has ended stays as it is. */
export function cancelPlan(ticket: number): void {
  const status = exports().camem_plan_cancel(ticket);
  if (status === abi.Status.ok || status === abi.Status.stale || status === abi.Status.not_open) return;
  throw statusError(status, takeFailure(), { attempt: "cancel a plan" });
}
