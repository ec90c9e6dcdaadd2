import { type BufferOwner, DeviceBuffer, segmentRelease } from "./buffer.ts";
import { CamemError } from "./errors.ts";
import type { SegmentName } from "./ffi/native.ts";
import { formatSize } from "./sizes.ts";
import { show } from "./validate.ts";

/** Ascend's copy and compute engines work best on addresses that are a multiple of this. */
export const alignmentBytes = 512;

/** @throws CamemError `INVALID_SIZE` for anything but a positive safe integer */
export function checkSize(sizeBytes: unknown): asserts sizeBytes is number {
  if (typeof sizeBytes === "number" && Number.isSafeInteger(sizeBytes) && sizeBytes > 0) return;
  throw new CamemError(
    "INVALID_SIZE",
    `the size is ${show(sizeBytes)}; it must be a positive whole number of bytes`,
  );
}

/** A run of bytes within a segment. */
interface Block {
  readonly segment: Segment;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

interface Segment {
  readonly name: SegmentName;
  readonly sizeBytes: number;
  readonly release: () => void;
  /** Free blocks by offset; neighbours are always merged, so no two touch. */
  free: Block[];
}

/** Where memory for a pool comes from and goes to: whole segments of one tag on one device. */
export interface SegmentSource {
  readonly granularityBytes: number;
  allocate(sizeBytes: number): SegmentName;
}

const roundUp = (value: number, multiple: number) => Math.ceil(value / multiple) * multiple;

/**
 * Sub-allocates buffers inside large segments of one tag, so that many small tensors do not each take the device's 2 MiB
 * granularity. A segment whose last buffer is freed goes back to the device at once.
 */
export class MemoryPool {
  readonly tag: string;
  readonly device: number;
  readonly #source: SegmentSource;
  readonly #owner: BufferOwner;
  readonly #segmentBytes: number;
  readonly #segments = new Set<Segment>();

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
    return [...this.#segments].reduce((sum, segment) => sum + segment.sizeBytes, 0);
  }

  /**
   * A buffer of `sizeBytes`, aligned to 512 bytes. Takes a new segment (aclrtReserveMemAddress, aclrtMallocPhysical,
   * aclrtMapMem) only when no segment has room.
   *
   * Room in memory that is asleep is not used.
   *
   * @throws CamemError `INVALID_SIZE`, `OUT_OF_DEVICE_MEMORY`, `ACL_CALL_FAILED`, `DEVICE_LOST` or `CLOSED`
   */
  malloc(sizeBytes: number): DeviceBuffer {
    checkSize(sizeBytes);
    const wanted = roundUp(sizeBytes, alignmentBytes);
    if (!Number.isSafeInteger(wanted))
      throw new CamemError(
        "INVALID_SIZE",
        `the size is ${sizeBytes}; no device has ${formatSize(sizeBytes)}`,
      );
    const free = this.#bestFit(wanted) ?? this.#grow(wanted);
    const block = this.#take(free, wanted);
    return new DeviceBuffer(this.#owner, {
      segment: block.segment.name,
      offsetBytes: block.offsetBytes,
      sizeBytes,
      tag: this.tag,
      device: this.device,
      release: () => this.#give(block),
    });
  }

  /** The smallest free block that is large enough, in memory that is awake. */
  #bestFit(sizeBytes: number): Block | undefined {
    let best: Block | undefined;
    for (const segment of this.#segments) {
      if (this.#owner.stateOf(segment.name) !== "mapped") continue;
      for (const block of segment.free) {
        if (block.sizeBytes >= sizeBytes && (best === undefined || block.sizeBytes < best.sizeBytes))
          best = block;
      }
    }
    return best;
  }

  #grow(sizeBytes: number): Block {
    const { granularityBytes } = this.#source;
    const segmentBytes = roundUp(Math.max(sizeBytes, this.#segmentBytes), granularityBytes);
    const name = this.#source.allocate(segmentBytes);
    const segment: Segment = { name, sizeBytes: segmentBytes, release: segmentRelease(name), free: [] };
    const block = { segment, offsetBytes: 0, sizeBytes: segmentBytes };
    segment.free.push(block);
    this.#segments.add(segment);
    return block;
  }

  #take(free: Block, sizeBytes: number): Block {
    const { segment, offsetBytes } = free;
    const rest = { segment, offsetBytes: offsetBytes + sizeBytes, sizeBytes: free.sizeBytes - sizeBytes };
    segment.free.splice(segment.free.indexOf(free), 1, ...(rest.sizeBytes > 0 ? [rest] : []));
    return { segment, offsetBytes, sizeBytes };
  }

  /** Puts a block back, merged with its free neighbours; a segment that is all free is released. */
  #give(block: Block): void {
    const { segment } = block;
    const end = block.offsetBytes + block.sizeBytes;
    const before = segment.free.find((free) => free.offsetBytes + free.sizeBytes === block.offsetBytes);
    const after = segment.free.find((free) => free.offsetBytes === end);
    const merged = {
      segment,
      offsetBytes: before?.offsetBytes ?? block.offsetBytes,
      sizeBytes: (before?.sizeBytes ?? 0) + block.sizeBytes + (after?.sizeBytes ?? 0),
    };
    if (merged.sizeBytes === segment.sizeBytes) {
      // First the segment, then our record of it: where AscendCL refuses, the block is still in use and can be freed again.
      segment.release();
      this.#segments.delete(segment);
      return;
    }
    const others = segment.free.filter((free) => free !== before && free !== after);
    segment.free = [...others, merged].sort((a, b) => a.offsetBytes - b.offsetBytes);
  }
}
