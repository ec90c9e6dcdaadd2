import { CamemError, formatValue } from "../errors.ts";
import * as native from "../ffi/index.ts";
import { checkRange } from "./bounds.ts";
import { createHostArray, viewAsBytes } from "./host-array.ts";

declare const devicePointerBrand: unique symbol;

/** An address on the device. A number, since Ascend's addresses are below 2^53; the CPU must not dereference it. */
export type DevicePointer = number & {
  /** Tells device addresses from other numbers at compile time; does not exist at run time. */
  readonly [devicePointerBrand]: true;
};

/**
 * The state of a buffer's memory: `mapped` on the device; `offloaded` to the host; `discarded`, without content; `moving`
 * during a sleep or wake-up; `freed`.
 */
export type BufferState = "mapped" | "offloaded" | "discarded" | "moving" | "freed";

/** @internal The allocator as its buffers see it. */
export interface BufferOwner {
  stateOf(segment: native.SegmentName): BufferState;
  /** True while the segment refuses writes. */
  isImmutable(segment: native.SegmentName): boolean;
  /** Throws `CLOSED` once the allocator is closed, since others may own its addresses by then. */
  assertOpen(): void;
}

/** @internal The part of a segment that a buffer owns. */
interface BufferPlace {
  readonly segment: native.SegmentName;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  readonly tag: string;
  readonly device: number;
  /** Gives the memory back; throws where AscendCL refuses, and may be called again then. */
  readonly release: () => void;
}

/** Device memory under a tag, at one address from allocation to {@link free}, also while asleep. Supports `using`. */
export class DeviceBuffer {
  /** The address on the device. */
  readonly ptr: DevicePointer;
  /** The requested size in bytes. */
  readonly sizeBytes: number;
  /** The tag. */
  readonly tag: string;
  /** The device number. */
  readonly device: number;
  readonly #owner: BufferOwner;
  readonly #place: BufferPlace;
  #freed = false;
  /** Loads that write to it. */
  #holds = 0;

  /** @internal */
  constructor(owner: BufferOwner, place: BufferPlace) {
    this.ptr = (place.segment.address + place.offsetBytes) as DevicePointer;
    this.sizeBytes = place.sizeBytes;
    this.tag = place.tag;
    this.device = place.device;
    this.#owner = owner;
    this.#place = place;
  }

  /** The state of the memory now. */
  get state(): BufferState {
    return this.#freed ? "freed" : this.#owner.stateOf(this.#place.segment);
  }

  /** True while writes are refused: the tag is immutable, or the backup is a checkpoint, until `markDirty`. */
  get immutable(): boolean {
    return !this.#freed && this.#owner.isImmutable(this.#place.segment);
  }

  /** @internal True once this buffer was freed, by which its segment need not be. */
  get isFreed(): boolean {
    return this.#freed;
  }

  /** @internal */
  get place(): BufferPlace {
    return this.#place;
  }

  /**
   * @internal How often sleeps have discarded the content.
   *
   * @throws CamemError `BUFFER_FREED` or `CLOSED`
   */
  get discards(): number {
    this.#assertLive();
    const info = native.localNative.segmentInfo(this.#place.segment);
    if (info === undefined) throw this.#freedError();
    return info.discards;
  }

  /**
   * Copies `source` into the buffer from byte `offsetBytes` on (aclrtMemcpy, host to device). Blocks until the copy is done;
   * it does not wait for kernels that use the buffer.
   *
   * @throws CamemError `OUT_OF_BOUNDS`, `BUFFER_ASLEEP`, `BUFFER_MOVING`, `BUFFER_FREED`, `BUFFER_IMMUTABLE`,
   * `INVALID_ARGUMENT`, `CLOSED`, `ACL_CALL_FAILED` or `DEVICE_LOST`
   */
  write(source: ArrayBufferView | ArrayBufferLike, offsetBytes = 0): void {
    const bytes = viewAsBytes(source);
    const start = this.#range(offsetBytes, bytes.length);
    if (bytes.length > 0) native.writeSegment(this.#place.segment, start, bytes);
  }

  /**
   * Copies `sizeBytes` bytes from byte `offsetBytes` on into a new array (aclrtMemcpy, device to host); the whole buffer by
   * default.
   *
   * @throws CamemError as {@link write}, or `OUT_OF_HOST_MEMORY`
   */
  read(offsetBytes = 0, sizeBytes = this.sizeBytes - offsetBytes): Uint8Array<ArrayBuffer> {
    this.#range(offsetBytes, sizeBytes);
    const target = createHostArray(sizeBytes);
    this.readInto(target, offsetBytes);
    return target;
  }

  /**
   * Fills `target` with the bytes from `offsetBytes` on (aclrtMemcpy, device to host).
   *
   * @throws CamemError as {@link write}
   */
  readInto(target: ArrayBufferView | ArrayBufferLike, offsetBytes = 0): void {
    const bytes = viewAsBytes(target);
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
   * Waits for the device and gives the memory back, awake or asleep (aclrtSynchronizeDeviceWithTimeout, aclrtUnmapMem,
   * aclrtFreePhysical, aclrtReleaseMemAddress; aclrtFreeHost for a backup). The buffer is freed at once, and its memory is
   * released afterwards, on another thread, during a sleep or wake-up of the memory and when the device is busy for more than 5
   * ms.
   *
   * @throws CamemError `BUFFER_FREED` for a freed buffer; `CLOSED`; `ACL_CALL_FAILED` or `DEVICE_LOST` when AscendCL refuses:
   * call it again then
   */
  free(): void {
    this.#assertLive();
    if (this.#holds === 0) this.#place.release();
    this.#freed = true;
  }

  /** @internal As {@link free}, also while the allocator closes. */
  abandon(): void {
    if (this.#freed) return;
    this.#place.release();
    this.#freed = true;
  }

  /**
   * @internal Keeps the memory for somebody who writes to it, also when the buffer is freed. Pair it with {@link letGo}.
   *
   * @throws CamemError `BUFFER_FREED` or `CLOSED`
   */
  hold(): void {
    this.#assertLive();
    this.#holds++;
  }

  /** @internal Ends a {@link hold}, and gives the memory back where the buffer was freed meanwhile. */
  letGo(): void {
    this.#holds--;
    if (this.#holds === 0 && this.#freed) this.#place.release();
  }

  /** Frees the buffer unless it is freed. */
  [Symbol.dispose](): void {
    if (this.state !== "freed") this.free();
  }

  #assertLive(): void {
    if (this.#freed) throw this.#freedError();
    this.#owner.assertOpen();
  }

  #freedError(): CamemError {
    const name = `0x${this.ptr.toString(16)} (${this.tag})`;
    return new CamemError("BUFFER_FREED", `the buffer at ${name} has been freed`);
  }

  /** Checks a range of the buffer and returns its start in the segment. */
  #range(offsetBytes: number, sizeBytes: number): number {
    this.#assertLive();
    checkRange(offsetBytes, sizeBytes, this);
    return this.#place.offsetBytes + offsetBytes;
  }
}

/** Frees a segment. After a failure it may be called again, also if the shim has freed the segment by itself meanwhile. */
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
