import { CamemError, formatValue } from "../errors.ts";
import type { SegmentName } from "../ffi/index.ts";
import { formatSize, parseSize } from "../options/sizes.ts";
import { type BufferOwner, DeviceBuffer, segmentRelease } from "./buffer.ts";
import { type Block, FreeList } from "./free-list.ts";

/** Ascend's copy and compute engines are fastest on addresses that are multiples of this. */
const alignmentBytes = 512;

function sizeMismatch(sizeBytes: unknown): string {
  if (typeof sizeBytes === "number" && Number.isInteger(sizeBytes) && sizeBytes > 0)
    return `it is too large: no device has ${formatSize(sizeBytes)}`;
  const isSizeText = typeof sizeBytes === "string" && parseSize(sizeBytes) !== undefined;
  const advice = isSizeText ? `, such as parseSize(${formatValue(sizeBytes)})` : "";
  return `it must be a positive whole number of bytes${advice}`;
}

/** @throws CamemError `INVALID_SIZE` for anything but a positive safe integer */
export function checkSize(sizeBytes: unknown): asserts sizeBytes is number {
  if (typeof sizeBytes === "number" && Number.isSafeInteger(sizeBytes) && sizeBytes > 0) return;
  throw new CamemError("INVALID_SIZE", `the size is ${formatValue(sizeBytes)}; ${sizeMismatch(sizeBytes)}`);
}

interface Segment {
  readonly name: SegmentName;
  readonly sizeBytes: number;
  readonly release: () => void;
}

/** @throws CamemError `INVALID_SIZE` */
function alignedSize(sizeBytes: number): number {
  checkSize(sizeBytes);
  const aligned = roundUp(sizeBytes, alignmentBytes);
  if (Number.isSafeInteger(aligned)) return aligned;
  throw new CamemError("INVALID_SIZE", `the size is ${sizeBytes}; ${sizeMismatch(aligned)}`);
}

/** The size limit of a segment that holds several buffers of `mallocAll`. */
const largestBatchBytes = 2 ** 30;

/** Splits sizes, in their order, into batches that each fill a segment. */
function batchesOf(sizesBytes: readonly number[]): { sizesBytes: number[]; totalBytes: number }[] {
  const batches: { sizesBytes: number[]; totalBytes: number }[] = [];
  for (const sizeBytes of sizesBytes) {
    const aligned = alignedSize(sizeBytes);
    const last = batches.at(-1);
    if (last && last.totalBytes + aligned <= largestBatchBytes) {
      last.sizesBytes.push(sizeBytes);
      last.totalBytes += aligned;
    } else batches.push({ sizesBytes: [sizeBytes], totalBytes: aligned });
  }
  return batches;
}

/** Allocates whole segments of one tag on one device. */
interface SegmentSource {
  readonly granularityBytes: number;
  allocate(sizeBytes: number): SegmentName;
}

const roundUp = (value: number, multiple: number) => Math.ceil(value / multiple) * multiple;

/**
 * Sub-allocates buffers in large segments of one tag, so that a small tensor does not take the device's granularity of 2 MiB.
 * Freeing the last buffer of a segment gives the segment back to the device at once.
 */
export class MemoryPool {
  /** The tag of its buffers. */
  readonly tag: string;
  /** The number of the device of its buffers. */
  readonly device: number;
  readonly #source: SegmentSource;
  readonly #owner: BufferOwner;
  readonly #segmentBytes: number;
  readonly #free = new FreeList<Segment>(alignmentBytes);
  #reservedBytes = 0;

  /** @internal */
  constructor(tag: string, device: number, segmentBytes: number, source: SegmentSource, owner: BufferOwner) {
    this.tag = tag;
    this.device = device;
    this.#segmentBytes = segmentBytes;
    this.#source = source;
    this.#owner = owner;
  }

  /** Bytes of device memory that the pool's segments span, used or not. */
  get reservedBytes(): number {
    return this.#reservedBytes;
  }

  /**
   * Allocates a buffer of `sizeBytes`, aligned to 512 bytes. Takes a new segment (aclrtReserveMemAddress, aclrtMallocPhysical,
   * aclrtMapMem) when no segment that is awake and writable has room.
   *
   * @throws CamemError `INVALID_SIZE`, `OUT_OF_DEVICE_MEMORY`, `ACL_CALL_FAILED`, `DEVICE_LOST` or `CLOSED`
   */
  malloc(sizeBytes: number): DeviceBuffer {
    const wanted = alignedSize(sizeBytes);
    const block = this.#find(wanted) ?? this.#grow(Math.max(wanted, this.#segmentBytes));
    return this.#bufferOf(this.#take(block, wanted), sizeBytes);
  }

  /**
   * Allocates a buffer for each of `sizesBytes`, side by side in new segments of just the size that they need: it wastes less
   * than 2 MiB per GiB. Meant for the tensors of a model, whose sizes are known beforehand. Until one of them is freed, their
   * segments hold nothing else. All or nothing.
   *
   * @throws CamemError as {@link malloc}, or `INVALID_ARGUMENT`
   */
  mallocAll(sizesBytes: readonly number[]): DeviceBuffer[] {
    if (!Array.isArray(sizesBytes))
      throw new CamemError(
        "INVALID_ARGUMENT",
        `the sizes are ${formatValue(sizesBytes)}; they must be an array of sizes in bytes`,
      );
    const buffers: DeviceBuffer[] = [];
    try {
      for (const buffer of this.mallocEach(sizesBytes)) buffers.push(buffer);
      return buffers;
    } catch (error) {
      for (const buffer of buffers) buffer.free();
      throw error;
    }
  }

  /**
   * @internal As {@link mallocAll}, a buffer at a time: other code may run in between. After a failure the caller frees what it has.
   */
  *mallocEach(sizesBytes: readonly number[]): Generator<DeviceBuffer, void> {
    for (const batch of batchesOf(sizesBytes)) {
      let rest: Block<Segment> | undefined = this.#newSegment(batch.totalBytes);
      try {
        for (const [index, sizeBytes] of batch.sizesBytes.entries()) {
          if (rest === undefined)
            throw new TypeError("a batch of buffers is larger than its segment: a bug of camem's");
          const block: Block<Segment> = rest;
          const isLast = index === batch.sizesBytes.length - 1;
          rest = isLast ? undefined : split(block, alignedSize(sizeBytes));
          yield this.#bufferOf(block, sizeBytes);
        }
      } finally {
        if (rest) this.#free.add(rest);
      }
    }
  }

  #bufferOf(block: Block<Segment>, sizeBytes: number): DeviceBuffer {
    return new DeviceBuffer(this.#owner, {
      segment: block.segment.name,
      offsetBytes: block.offsetBytes,
      sizeBytes,
      tag: this.tag,
      device: this.device,
      release: () => this.#give(block),
    });
  }

  /** A free block of `sizeBytes` in memory that is awake and writable. */
  #find(sizeBytes: number): Block<Segment> | undefined {
    const usable = new Map<Segment, boolean>();
    return this.#free.find(sizeBytes, (segment) => {
      const known = usable.get(segment);
      if (known !== undefined) return known;
      const isUsable =
        this.#owner.stateOf(segment.name) === "mapped" && !this.#owner.isImmutable(segment.name);
      usable.set(segment, isUsable);
      return isUsable;
    });
  }

  /** A new segment of at least `sizeBytes`, all of it free. */
  #grow(sizeBytes: number): Block<Segment> {
    const block = this.#newSegment(sizeBytes);
    this.#free.add(block);
    return block;
  }

  /** A block in use that is a new segment of at least `sizeBytes`. */
  #newSegment(sizeBytes: number): Block<Segment> {
    const segmentBytes = roundUp(sizeBytes, this.#source.granularityBytes);
    const name = this.#source.allocate(segmentBytes);
    const segment: Segment = { name, sizeBytes: segmentBytes, release: segmentRelease(name) };
    this.#reservedBytes += segmentBytes;
    return {
      segment,
      offsetBytes: 0,
      sizeBytes: segmentBytes,
      free: false,
      before: undefined,
      after: undefined,
    };
  }

  /** Takes the first `sizeBytes` of a free block; the rest stays free. */
  #take(block: Block<Segment>, sizeBytes: number): Block<Segment> {
    this.#free.remove(block);
    const rest = split(block, sizeBytes);
    if (rest) this.#free.add(rest);
    return block;
  }

  /** Frees a block and merges it with its free neighbours; releases the segment once all of it is free. */
  #give(block: Block<Segment>): void {
    const { segment, before, after } = block;
    const freeBefore = before?.free ? before : undefined;
    const freeAfter = after?.free ? after : undefined;
    const mergedBytes = block.sizeBytes + (freeBefore?.sizeBytes ?? 0) + (freeAfter?.sizeBytes ?? 0);
    if (mergedBytes === segment.sizeBytes) {
      // Before the records change: where AscendCL refuses, the block stays in use and can be freed again.
      segment.release();
      this.#reservedBytes -= segment.sizeBytes;
    }
    if (freeBefore) this.#free.remove(freeBefore);
    if (freeAfter) this.#free.remove(freeAfter);
    if (mergedBytes < segment.sizeBytes)
      this.#free.add(merge(freeBefore ?? block, freeAfter ?? block, mergedBytes));
  }
}

/** Cuts a block off after its first `sizeBytes`, and returns the rest; undefined where none is left. */
function split(block: Block<Segment>, sizeBytes: number): Block<Segment> | undefined {
  if (block.sizeBytes === sizeBytes) return undefined;
  const rest: Block<Segment> = {
    segment: block.segment,
    offsetBytes: block.offsetBytes + sizeBytes,
    sizeBytes: block.sizeBytes - sizeBytes,
    free: false,
    before: block,
    after: block.after,
  };
  if (block.after) block.after.before = rest;
  block.after = rest;
  block.sizeBytes = sizeBytes;
  return rest;
}

/** Merges all blocks from `first` to `last`. */
function merge(first: Block<Segment>, last: Block<Segment>, sizeBytes: number): Block<Segment> {
  first.sizeBytes = sizeBytes;
  first.after = last.after;
  if (first.after) first.after.before = first;
  return first;
}
