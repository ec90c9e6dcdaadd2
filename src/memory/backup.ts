import * as native from "../ffi/index.ts";
import { checkRange } from "./bounds.ts";
import type { BufferOwner, DevicePointer } from "./buffer.ts";
import { createHostArray } from "./host-array.ts";
import { stateName } from "./table.ts";

/** The backup of one segment: in host memory, a spill file or a checkpoint. */
export class Backup {
  /** The device address of the content. */
  readonly ptr: DevicePointer;
  /** The size in bytes. */
  readonly sizeBytes: number;
  /** The number of the device that the content comes from. */
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
   * Copies `sizeBytes` bytes from byte `offsetBytes` on; the whole backup by default. Makes no AscendCL call. Blocks while it
   * reads a file. Bytes beyond the size that was allocated are zero, and, where a checkpoint is the backup, those between tensors.
   *
   * @throws CamemError `OUT_OF_BOUNDS`; `NO_BACKUP` once the memory is discarded, or awake without a kept backup; `BUFFER_MOVING` during a
   * transition of it; `BUFFER_FREED`, `OUT_OF_HOST_MEMORY`, `FILE_FAILED`, `FILE_CHANGED` or `CLOSED`
   */
  read(offsetBytes = 0, sizeBytes = this.sizeBytes - offsetBytes): Uint8Array<ArrayBuffer> {
    this.#owner.assertOpen();
    checkRange(offsetBytes, sizeBytes, this);
    const target = createHostArray(sizeBytes);
    if (sizeBytes > 0) native.readBackup(this.#segment, offsetBytes, target);
    return target;
  }
}

function backupBytesOf(segment: native.SegmentSnapshot): number {
  return segment.hostBytes + segment.pageableBytes + segment.spilledBytes + segment.checkpointBytes;
}

/** @internal The backups of a tag's segments that are offloaded, or awake with the content of their backups. */
export function backupsOf(tagId: number, owner: BufferOwner): Backup[] {
  return native.localNative
    .snapshot()
    .filter((segment) => segment.tag === tagId && segment.doomed === 0)
    .filter(({ state, clean }) => stateName(state) === "offloaded" || clean === 1)
    .filter((segment) => backupBytesOf(segment) > 0)
    .map((segment) => new Backup(owner, segment));
}
