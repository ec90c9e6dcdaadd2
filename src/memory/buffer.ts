import { CamemError, formatValue } from "../errors.ts";
import * as native from "../ffi/native.ts";

declare const devicePointerBrand: unique symbol;

/** An address on the device. A number, since Ascend's addresses lie below 2^53; the CPU must not follow it. */
export type DevicePointer = number & { readonly [devicePointerBrand]: true };

/**
 * Where a buffer's memory is: `mapped` on the device; `offloaded` to the host; `discarded`, with its content gone; `moving`
 * while a sleep or wake-up is at it; `freed`.
 */
export type BufferState = "mapped" | "offloaded" | "discarded" | "moving" | "freed";

/** @internal What a buffer needs of its allocator. */
export interface BufferOwner {
  stateOf(segment: native.SegmentName): BufferState;
  /** True while writes to the segment are refused. */
  isImmutable(segment: native.SegmentName): boolean;
  /** Throws `CLOSED` once the allocator is closed: its addresses may belong to others by then. */
  assertOpen(): void;
}

/** @internal */
export interface BufferPlace {
  readonly segment: native.SegmentName;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  readonly tag: string;
  readonly device: number;
  /** Gives the memory back; throws where AscendCL refuses, and can be called again. */
  readonly release: () => void;
}

function bytesOf(view: ArrayBufferView | ArrayBufferLike): Uint8Array {
  if (ArrayBuffer.isView(view)) return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  if (view instanceof ArrayBuffer || view instanceof SharedArrayBuffer) return new Uint8Array(view);
  throw new CamemError(
    "INVALID_ARGUMENT",
    `the data is ${formatValue(view)}; it must be an ArrayBuffer or a view of one`,
  );
}

/**
 * Device memory under a tag. Its address stays the same for as long as it lives, also while it is asleep. Free it with
 * {@link free} or declare it with `using`.
 */
export class DeviceBuffer {
  /** The address on the device. */
  readonly ptr: DevicePointer;
  /** The size in bytes, as asked for. */
  readonly sizeBytes: number;
  readonly tag: string;
  readonly device: number;
  readonly #owner: BufferOwner;
  readonly #place: BufferPlace;
  #freed = false;

  /** @internal */
  constructor(owner: BufferOwner, place: BufferPlace) {
    this.ptr = (place.segment.address + place.offsetBytes) as DevicePointer;
    this.sizeBytes = place.sizeBytes;
    this.tag = place.tag;
    this.device = place.device;
    this.#owner = owner;
    this.#place = place;
  }

  get state(): BufferState {
    return this.#freed ? "freed" : this.#owner.stateOf(this.#place.segment);
  }

  /** True while writes are refused, because its tag is immutable or its backup is the checkpoint, until `markDirty`. */
  get immutable(): boolean {
    return !this.#freed && this.#owner.isImmutable(this.#place.segment);
  }

  /** @internal */
  get place(): BufferPlace {
    return this.#place;
  }

  /**
   * Copies `source` into the buffer from byte `offsetBytes` on (aclrtMemcpy, host to device). Blocks until it has arrived;
   * it does not wait for kernels, which is the caller's to do.
   *
   * @throws CamemError `OUT_OF_BOUNDS`, `BUFFER_ASLEEP`, `BUFFER_MOVING`, `BUFFER_FREED`, `BUFFER_IMMUTABLE`,
   * `INVALID_ARGUMENT`, `CLOSED`, `ACL_CALL_FAILED` or `DEVICE_LOST`
   */
  write(source: ArrayBufferView | ArrayBufferLike, offsetBytes = 0): void {
    const bytes = bytesOf(source);
    const start = this.#range(offsetBytes, bytes.length);
    if (bytes.length > 0) native.writeSegment(this.#place.segment, start, bytes);
  }

  /**
   * A copy of `sizeBytes` bytes from byte `offsetBytes` on (aclrtMemcpy, device to host); of the whole buffer by default.
   *
   * @throws CamemError as {@link write}
   */
  read(offsetBytes = 0, sizeBytes = this.sizeBytes - offsetBytes): Uint8Array<ArrayBuffer> {
    this.#range(offsetBytes, sizeBytes);
    const target = hostArray(sizeBytes);
    this.readInto(target, offsetBytes);
    return target;
  }

  /**
   * Fills `target` with the bytes from `offsetBytes` on (aclrtMemcpy, device to host).
   *
   * @throws CamemError as {@link write}
   */
  readInto(target: ArrayBufferView | ArrayBufferLike, offsetBytes = 0): void {
    const bytes = bytesOf(target);
    const start = this.#range(offsetBytes, bytes.length);
    if (bytes.length > 0) native.readSegment(this.#place.segment, start, bytes);
  }

  /**
   * Sets bytes to `value`, 0 to 255 (aclrtMemset); the whole buffer by default.
   *
   * @throws CamemError as {@link write}
   */
  fill(value: number, offsetBytes = 0, sizeBytes = this.sizeBytes - offsetBytes): void {
    if (!Number.isInteger(value) || value < 0 || value > 255)
      throw new CamemError(
        "INVALID_ARGUMENT",
        `the value is ${formatValue(value)}; it must be a whole number from 0 to 255`,
      );
    const start = this.#range(offsetBytes, sizeBytes);
    if (sizeBytes > 0) native.fillSegment(this.#place.segment, start, sizeBytes, value);
  }

  /**
   * Gives the memory back, awake or asleep, after waiting for the device (aclrtSynchronizeDevice, aclrtUnmapMem,
   * aclrtFreePhysical, aclrtReleaseMemAddress; a backup by aclrtFreeHost). While a sleep or wake-up moves it the buffer counts
   * as freed at once, and its memory goes when that has ended.
   *
   * @throws CamemError `BUFFER_FREED` when it is freed already; `ACL_CALL_FAILED` or `DEVICE_LOST` when AscendCL refuses: then
   * it can be called again
   */
  free(): void {
    this.#assertLive();
    this.#place.release();
    this.#freed = true;
  }

  /** Frees the buffer unless that has been done. */
  [Symbol.dispose](): void {
    if (this.state !== "freed") this.free();
  }

  #assertLive(): void {
    if (this.#freed)
      throw new CamemError(
        "BUFFER_FREED",
        `the buffer at 0x${this.ptr.toString(16)} (${this.tag}) has been freed`,
      );
    this.#owner.assertOpen();
  }

  /** Checks a range of the buffer and returns where it starts in the segment. */
  #range(offsetBytes: number, sizeBytes: number): number {
    this.#assertLive();
    checkRange(offsetBytes, sizeBytes, this);
    return this.#place.offsetBytes + offsetBytes;
  }
}

/** @throws CamemError `OUT_OF_HOST_MEMORY` where JavaScript cannot have an array of that size */
function hostArray(sizeBytes: number): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(sizeBytes);
  } catch (cause) {
    throw new CamemError(
      "OUT_OF_HOST_MEMORY",
      `there is no room for an array of ${sizeBytes} bytes; read in pieces, with readInto or an offset and a size`,
      { sizeBytes, cause },
    );
  }
}

/**
 * Frees a segment. After a failure it can be called again; should the shim have freed the segment by itself meanwhile, that
 * is well.
 */
export function segmentRelease(segment: native.SegmentName): () => void {
  let failed = false;
  return () => {
    try {
      native.freeSegment(segment);
    } catch (error) {
      if (failed && error instanceof CamemError && error.code === "BUFFER_FREED") return;
      failed = true;
      throw error;
    }
  };
}

function checkRange(
  offsetBytes: number,
  sizeBytes: number,
  whole: { readonly ptr: number; readonly sizeBytes: number },
): void {
  const fits =
    Number.isSafeInteger(offsetBytes) &&
    Number.isSafeInteger(sizeBytes) &&
    offsetBytes >= 0 &&
    sizeBytes >= 0 &&
    offsetBytes + sizeBytes <= whole.sizeBytes;
  if (fits) return;
  const what =
    offsetBytes > whole.sizeBytes
      ? `offset ${formatValue(offsetBytes)} is`
      : `${formatValue(sizeBytes)} bytes at offset ${formatValue(offsetBytes)} are`;
  throw new CamemError("OUT_OF_BOUNDS", `${what} not within the ${whole.sizeBytes} bytes there are`, {
    address: whole.ptr,
  });
}

/** The backup of one segment that is offloaded: in page-locked host memory, a spill file or a checkpoint. */
export class Backup {
  /** The device address whose content this is. */
  readonly ptr: DevicePointer;
  readonly sizeBytes: number;
  readonly device: number;
  readonly #owner: BufferOwner;
  readonly #segment: native.SegmentName;

  /** @internal */
  constructor(owner: BufferOwner, segment: native.SegmentName & { sizeBytes: number; device: number }) {
    this.ptr = segment.address as DevicePointer;
    this.sizeBytes = segment.sizeBytes;
    this.device = segment.device;
    this.#owner = owner;
    this.#segment = segment;
  }

  /**
   * A copy of `sizeBytes` bytes from byte `offsetBytes` on; of the whole backup by default. Makes no AscendCL call. Blocks
   * while it reads a file. Where a checkpoint is the backup, bytes between its tensors are zero.
   *
   * @throws CamemError `OUT_OF_BOUNDS`; `NO_BACKUP` when the memory is awake or discarded by now; `BUFFER_MOVING` while a
   * transition is at it; `BUFFER_FREED`, `FILE_FAILED`, `FILE_CHANGED` or `CLOSED`
   */
  read(offsetBytes = 0, sizeBytes = this.sizeBytes - offsetBytes): Uint8Array<ArrayBuffer> {
    this.#owner.assertOpen();
    checkRange(offsetBytes, sizeBytes, this);
    const target = hostArray(sizeBytes);
    if (sizeBytes > 0) native.readBackup(this.#segment, offsetBytes, target);
    return target;
  }
}
