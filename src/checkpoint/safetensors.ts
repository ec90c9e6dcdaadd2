import { constants, type FileHandle, open } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual, types } from "node:util";
import Type, { type Static } from "typebox";
import { CaMemAllocator } from "../allocator.ts";
import { CamemError, formatValue, messageOf } from "../errors.ts";
import * as native from "../ffi/index.ts";
import { DeviceBuffer } from "../memory/buffer.ts";
import { closedObject, custom, optional, required, Signal, unchecked } from "../options/schemas.ts";
import { validate } from "../options/validate.ts";
import { DiscardWatch } from "./discard-watch.ts";
import {
  formatHeaderValue,
  invalid,
  lengthFieldBytes,
  parseHeaderLength,
  parseSafetensorsHeader,
  type SafetensorsEntry,
  type SafetensorsHeader,
  type TensorDtype,
} from "./header.ts";
import { beginLoad } from "./loads.ts";

/** A tensor of a checkpoint in device memory. */
export interface Tensor {
  /** The name in the checkpoint. */
  readonly name: string;
  /** The element type. */
  readonly dtype: TensorDtype;
  /** Lengths of the dimensions, outermost first; empty for a scalar. Elements are packed in row-major order. */
  readonly shape: readonly number[];
  /** Bytes of content; zero where a dimension is 0. */
  readonly sizeBytes: number;
  /** The device memory. A tensor without elements has a buffer of one byte, which is never written. */
  readonly buffer: DeviceBuffer;
}

function isTensor(value: unknown): boolean {
  return (
    typeof value === "object" && value !== null && "buffer" in value && value.buffer instanceof DeviceBuffer
  );
}

const LoadSafetensorsOptions = closedObject({
  /** Allocates the tensors. */
  allocator: required(
    custom<CaMemAllocator>(
      "a CaMemAllocator, such as CaMemAllocator.getInstance()",
      (value) => value instanceof CaMemAllocator,
    ),
  ),
  /** The tag of the tensors; by default `weights`. */
  tag: optional(unchecked<string>()),
  /** The device number of the tensors; by default the allocator's. */
  device: optional(unchecked<number>()),
  /**
   * Tensors of an earlier load, to be overwritten in place instead of allocating: the reload after a sleep at level 2. The
   * checkpoint must hold exactly these names, dtypes and shapes. `tag` and `device` are ignored then.
   */
  into: optional(
    custom<ReadonlyMap<string, Tensor>>(
      "the result of an earlier loadSafetensors",
      (value) => types.isMap(value) && [...value.values()].every(isTensor),
    ),
  ),
  /**
   * Where a sleep that offloads keeps the content; by default `host`. `host`: in page-locked host memory. `file`: in the
   * checkpoint itself, which must not change from then on; a wake-up reads the content from there, and the tensors refuse
   * writes until `markDirty`. With `into`, `file` works for tensors that an earlier load allocated.
   */
  backing: optional(
    Type.Union([Type.Literal("host"), Type.Literal("file")], { description: '"host" or "file"' }),
  ),
  /** Stops the load between two chunks. */
  signal: optional(Signal),
});

/** Options of {@link loadSafetensors}. */
export interface LoadSafetensorsOptions extends Static<typeof LoadSafetensorsOptions> {}

/** Tensors that a load allocated, so that their segments hold nothing else. */
const ownSegments = new WeakSet<ReadonlyMap<string, Tensor>>();

/** A tensor of the checkpoint and the memory that it is loaded into. */
interface Target {
  readonly entry: SafetensorsEntry;
  readonly buffer: DeviceBuffer;
}

/** Bounds the host memory of a load, and the time that one read or copy blocks the event loop. */
const chunkBytes = 16 * 1024 * 1024;

/**
 * Loads a safetensors checkpoint into device memory. Checks the whole header before allocating. Sub-allocates the tensors in
 * a few large segments of the tag's memory pool (aclrtReserveMemAddress, aclrtMallocPhysical, aclrtMapMem), then copies the
 * data in chunks of 16 MiB (aclrtMemcpy, host to device). The event loop runs between two chunks.
 *
 * With `into`, overwrites the tensors of an earlier load and allocates nothing. Checks names, dtypes, shapes and the state of
 * every buffer before the first write. If reading fails later, the tensors stay allocated with undefined content: load again.
 *
 * A load that resolves has written the whole checkpoint. It rejects if a sleep touches a tensor while it still writes, even if
 * the memory is awake again.
 *
 * @param path a path or a `file:` URL
 * @returns all tensors by name, in the order of the data; with `into`, the same map
 * @throws CamemError `INVALID_ARGUMENT`; `SAFETENSORS_INVALID` if the file cannot be read, breaks the format or does not match
 * `into`; `BUFFER_ASLEEP`, `BUFFER_MOVING`, `BUFFER_FREED` or `BUFFER_IMMUTABLE` if a tensor cannot be written, or a sleep
 * discarded it during the load;
 * `FILE_CHANGED` or `FILE_FAILED` with `backing: "file"`; `ABORTED`; errors of `MemoryPool.mallocAll`, such as
 * `OUT_OF_DEVICE_MEMORY`. A failed load frees what it allocated.
 */
export async function loadSafetensors(
  path: string | URL,
  options: LoadSafetensorsOptions,
): Promise<ReadonlyMap<string, Tensor>> {
  checkOptions(options);
  const fileName = fileNameOf(path);
  throwIfAborted(options.signal, fileName);
  const handle = await openCheckpoint(fileName);
  try {
    // Opened before the first read, so that a change during the load is noticed.
    using checkpoint = options.backing === "file" ? native.openCheckpoint(handle.fd) : undefined;
    const header = await readHeader(handle, fileName);
    const tensors = options.into ?? allocateTensors(header, options);
    const endLoad = beginLoad(options.allocator, tagsOf(tensors));
    try {
      if (options.into !== undefined) checkMatch(header.entries, options.into, fileName);
      const targets = targetsOf(header, tensors);
      const watch = new DiscardWatch(targets.map(({ buffer }) => buffer));
      await copyData(handle, header, targets, watch, fileName, options.signal);
      if (checkpoint !== undefined) backByFile(checkpoint.handle, header, targets, watch);
      watch.assertKept(fileName);
    } catch (error) {
      endLoad(false);
      if (options.into === undefined) freeAll(tensors, error);
      throw error;
    }
    endLoad(true);
    return tensors;
  } finally {
    await handle.close();
  }
}

function tagsOf(tensors: ReadonlyMap<string, Tensor>): ReadonlySet<string> {
  return new Set([...tensors.values()].map(({ buffer }) => buffer.tag));
}

/** Each tensor of the header with its memory. A caller may change the map of `into` during the load. */
function targetsOf(header: SafetensorsHeader, tensors: ReadonlyMap<string, Tensor>): Target[] {
  return header.entries.flatMap((entry) => {
    const buffer = tensors.get(entry.name)?.buffer;
    return buffer === undefined ? [] : [{ entry, buffer }];
  });
}

/** @throws CamemError `INVALID_ARGUMENT` */
function fileNameOf(path: unknown): string {
  if (typeof path === "string" && path !== "") return path;
  const given = formatValue(path instanceof URL ? path.href : path);
  try {
    if (path instanceof URL) return fileURLToPath(path);
  } catch (cause) {
    const reason = messageOf(cause);
    throw new CamemError("INVALID_ARGUMENT", `the path is ${given}: ${reason}`, { cause });
  }
  throw new CamemError("INVALID_ARGUMENT", `the path is ${given}; it must be a path or a file: URL`);
}

function checkOptions(options: LoadSafetensorsOptions): void {
  validate(LoadSafetensorsOptions, options, "loadSafetensors", "INVALID_ARGUMENT");
  const { into, backing } = options;
  if (backing === "file" && into !== undefined && !ownSegments.has(into))
    throw new CamemError(
      "INVALID_ARGUMENT",
      "`into` was not allocated by loadSafetensors, so other content may be in its segments; leave backing out",
      { property: "into" },
    );
}

/** Declares which part of the checkpoint each segment's content is. */
function backByFile(
  handle: number,
  { dataOffsetBytes }: SafetensorsHeader,
  targets: readonly Target[],
  watch: DiscardWatch,
): void {
  const bySegment = new Map<number, { segment: native.SegmentName; extents: native.CheckpointExtent[] }>();
  for (const { entry, buffer } of targets) {
    const { beginBytes, endBytes } = entry;
    if (endBytes === beginBytes) continue;
    const { segment, offsetBytes: segmentOffsetBytes } = buffer.place;
    const own = bySegment.get(segment.segmentId) ?? { segment, extents: [] };
    const fileOffsetBytes = dataOffsetBytes + beginBytes;
    own.extents.push({ segmentOffsetBytes, fileOffsetBytes, sizeBytes: endBytes - beginBytes });
    bySegment.set(segment.segmentId, own);
  }
  for (const { segment, extents } of bySegment.values()) {
    extents.sort((a, b) => a.segmentOffsetBytes - b.segmentOffsetBytes);
    native.useCheckpoint(segment, watch.discardsOf(segment.segmentId), handle, extents);
  }
}

async function openCheckpoint(path: string): Promise<FileHandle> {
  try {
    // Opening a FIFO without a writer would block.
    return await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: string, error: unknown): CamemError {
  const reason = messageOf(error);
  return invalid(
    path,
    `the checkpoint cannot be read (${reason})`,
    "Give the path of a readable .safetensors file.",
    error,
  );
}

async function readHeader(handle: FileHandle, path: string): Promise<SafetensorsHeader> {
  const file = await handle.stat();
  if (!file.isFile()) {
    throw invalid(path, "the checkpoint is not a regular file", "Give the path of a .safetensors file.");
  }
  const lengthField = new Uint8Array(Math.min(lengthFieldBytes, file.size));
  await readExactly(handle, lengthField, 0, path);
  // Checked before allocating: a damaged length could ask for gigabytes of host memory.
  const headerBytes = parseHeaderLength(lengthField, file.size, path);
  const bytes = new Uint8Array(lengthFieldBytes + headerBytes);
  await readExactly(handle, bytes, 0, path);
  return parseSafetensorsHeader(bytes, file.size, path);
}

async function readExactly(
  handle: FileHandle,
  target: Uint8Array,
  positionBytes: number,
  path: string,
): Promise<void> {
  let doneBytes = 0;
  while (doneBytes < target.length) {
    const bytesRead = await readSome(handle, target.subarray(doneBytes), positionBytes + doneBytes, path);
    if (bytesRead === 0) {
      throw invalid(
        path,
        `the file ends at byte ${positionBytes + doneBytes}, while it is being read`,
        "Load again once nothing writes to the file.",
      );
    }
    doneBytes += bytesRead;
  }
}

async function readSome(
  handle: FileHandle,
  target: Uint8Array,
  positionBytes: number,
  path: string,
): Promise<number> {
  try {
    const { bytesRead } = await handle.read(target, 0, target.length, positionBytes);
    return bytesRead;
  } catch (error) {
    throw unreadable(path, error);
  }
}

function allocateTensors(
  header: SafetensorsHeader,
  { allocator, tag = "weights", device }: LoadSafetensorsOptions,
): ReadonlyMap<string, Tensor> {
  const pool = allocator.memoryPool(tag, device === undefined ? {} : { device });
  const sizes = header.entries.map(({ beginBytes, endBytes }) => endBytes - beginBytes);
  const buffers = pool.mallocAll(sizes.map((sizeBytes) => Math.max(sizeBytes, 1)));
  const tensors = new Map<string, Tensor>();
  for (const [index, { name, dtype, shape, beginBytes, endBytes }] of header.entries.entries()) {
    const buffer = buffers[index];
    if (buffer) tensors.set(name, { name, dtype, shape, sizeBytes: endBytes - beginBytes, buffer });
  }
  ownSegments.add(tensors);
  return tensors;
}

/** Frees the tensors of a failed load. A buffer that cannot be freed must not hide the error of the load. */
function freeAll(tensors: ReadonlyMap<string, Tensor>, loadError: unknown): void {
  const freeErrors: unknown[] = [];
  for (const { buffer } of tensors.values()) {
    try {
      buffer.free();
    } catch (error) {
      freeErrors.push(error);
    }
  }
  if (freeErrors.length === 0) return;
  const reason = messageOf(loadError);
  throw new CamemError(
    loadError instanceof CamemError ? loadError.code : "ACL_CALL_FAILED",
    `${reason} And ${freeErrors.length} of the ${tensors.size} tensors allocated for it could not be freed again.`,
    { cause: new AggregateError([loadError, ...freeErrors]) },
  );
}

function checkMatch(
  entries: readonly SafetensorsEntry[],
  into: ReadonlyMap<string, Tensor>,
  path: string,
): void {
  const hint = "Reload from a checkpoint of the same model, or load it anew without `into`.";
  const names = new Set(entries.map((entry) => entry.name));
  for (const name of into.keys()) {
    if (!names.has(name))
      throw invalid(path, `tensor ${formatHeaderValue(name)} of \`into\` is not in the file`, hint);
  }
  for (const { name, dtype, shape } of entries) {
    const tensor = into.get(name);
    if (tensor === undefined)
      throw invalid(path, `tensor ${formatHeaderValue(name)} is not in \`into\``, hint);
    if (tensor.dtype !== dtype || !isDeepStrictEqual(tensor.shape, shape)) {
      throw invalid(
        path,
        `tensor ${formatHeaderValue(name)} is ${dtype} ${formatHeaderValue(shape)} in the file, but ${tensor.dtype} ${formatHeaderValue(tensor.shape)} in \`into\``,
        hint,
      );
    }
    checkWritable(tensor);
  }
}

function checkWritable({ name, buffer }: Tensor): void {
  const { state, tag } = buffer;
  if (state === "mapped" && !buffer.immutable) return;
  if (state === "mapped")
    throw new CamemError(
      "BUFFER_IMMUTABLE",
      `Tensor ${formatHeaderValue(name)} cannot be written: its content is immutable. Call markDirty("${tag}") first.`,
    );
  const message = `Tensor ${formatHeaderValue(name)} cannot be written: its device memory is ${state}.`;
  if (state === "freed") throw new CamemError("BUFFER_FREED", `${message} Load it anew without \`into\`.`);
  if (state === "moving")
    throw new CamemError("BUFFER_MOVING", `${message} Await the sleep or wake-up first.`);
  throw new CamemError("BUFFER_ASLEEP", `${message} Call wakeUp({ tags: ["${tag}"] }) first.`);
}

/** Reuses one staging array, since `DeviceBuffer.write` blocks until its copy is done. */
async function copyData(
  handle: FileHandle,
  header: SafetensorsHeader,
  targets: readonly Target[],
  watch: DiscardWatch,
  path: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const staging = new Uint8Array(Math.min(chunkBytes, header.dataSizeBytes));
  for (let chunkBegin = 0; chunkBegin < header.dataSizeBytes; chunkBegin += staging.length) {
    throwIfAborted(signal, path);
    const chunk = staging.subarray(0, Math.min(staging.length, header.dataSizeBytes - chunkBegin));
    await readExactly(handle, chunk, header.dataOffsetBytes + chunkBegin, path);
    watch.assertKept(path);
    writeChunk(chunk, chunkBegin, targets);
    // Awaiting a read is not enough: Bun resumes a completed read before other tasks.
    await setImmediate();
  }
  throwIfAborted(signal, path);
}

function writeChunk(chunk: Uint8Array, chunkBegin: number, targets: readonly Target[]): void {
  const chunkEnd = chunkBegin + chunk.length;
  for (const { entry, buffer } of targets) {
    const { beginBytes, endBytes } = entry;
    const from = Math.max(beginBytes, chunkBegin);
    const to = Math.min(endBytes, chunkEnd);
    if (from < to) {
      const source = chunk.subarray(from - chunkBegin, to - chunkBegin);
      buffer.write(source, from - beginBytes);
    }
  }
}

function throwIfAborted(signal: AbortSignal | undefined, path: string): void {
  if (signal?.aborted) {
    throw new CamemError("ABORTED", `The load of ${path} was aborted by its signal.`, {
      cause: signal.reason,
    });
  }
}
