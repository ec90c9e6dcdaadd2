import { localNative } from "../ffi/index.ts";
import { allocateOnDevice } from "./allocate.ts";
import type { BufferOwner } from "./buffer.ts";
import { MemoryPool } from "./pool.ts";
import type { SegmentTable } from "./table.ts";

/** The memory pools of an allocator: one for each tag and device. */
export class MemoryPools {
  readonly #pools = new Map<string, MemoryPool>();
  readonly #table: SegmentTable;
  readonly #owner: BufferOwner;
  readonly #segmentBytes: number;

  constructor(table: SegmentTable, owner: BufferOwner, segmentBytes: number) {
    this.#table = table;
    this.#owner = owner;
    this.#segmentBytes = segmentBytes;
  }

  get(tag: string, device: number): MemoryPool {
    const key = `${device} ${tag}`;
    const existing = this.#pools.get(key);
    if (existing) return existing;
    const source = {
      granularityBytes: localNative.memoryInfo(device).granularityBytes,
      allocate: (sizeBytes: number) => allocateOnDevice(device, this.#table.tagId(tag), sizeBytes),
    };
    const pool = new MemoryPool(tag, device, this.#segmentBytes, source, this.#owner);
    this.#pools.set(key, pool);
    return pool;
  }
}
