/** Loads: checkpoints that the shim reads into segments on threads of its own. */

import { exports } from "./library.ts";
import type { SegmentName } from "./segments.ts";
import {
  check,
  checkStatus,
  type Failure,
  failureBytes,
  firstResult,
  takeFailure,
  takeFirst,
} from "./status.ts";
import { decode, writeU64 } from "./struct.ts";
import * as abi from "./symbols.gen.ts";

/** A part of a checkpoint, and where in device memory it belongs. */
interface LoadPiece {
  readonly segment: SegmentName;
  /** How often the segment's content had been discarded when the load began. */
  readonly discards: number;
  readonly segmentOffsetBytes: number;
  /** Which of the load's checkpoints. */
  readonly checkpoint: number;
  readonly fileOffsetBytes: number;
  readonly sizeBytes: number;
}

/** The pieces of a load, in the order of its checkpoints. */
export class LoadPieces {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  length = 0;

  constructor(most: number) {
    this.bytes = new Uint8Array(most * abi.LoadPiece.sizeBytes);
    this.#view = new DataView(this.bytes.buffer);
  }

  add({ segment, discards, segmentOffsetBytes, checkpoint, fileOffsetBytes, sizeBytes }: LoadPiece): void {
    const { fields } = abi.LoadPiece;
    const start = this.length++ * abi.LoadPiece.sizeBytes;
    writeU64(this.#view, start + fields.address.offset, segment.address);
    writeU64(this.#view, start + fields.segmentId.offset, segment.segmentId);
    writeU64(this.#view, start + fields.segmentOffsetBytes.offset, segmentOffsetBytes);
    writeU64(this.#view, start + fields.fileOffsetBytes.offset, fileOffsetBytes);
    writeU64(this.#view, start + fields.sizeBytes.offset, sizeBytes);
    this.#view.setUint32(start + fields.checkpoint.offset, checkpoint, true);
    this.#view.setUint32(start + fields.discards.offset, discards, true);
  }
}

/** Starts to read checkpoints into the segments of a device. Poll it until it has ended. */
export function startLoad(device: number, checkpoints: readonly number[], pieces: LoadPieces): number {
  const handles = new Uint8Array(checkpoints.length * 8);
  const view = new DataView(handles.buffer);
  for (const [index, handle] of checkpoints.entries()) writeU64(view, index * 8, handle);
  const start = exports().camem_load_start;
  checkStatus(
    "load a checkpoint",
    start(device, handles, checkpoints.length, pieces.bytes, pieces.length, firstResult),
  );
  return takeFirst();
}

const progressBytes = new Uint8Array(abi.LoadProgress.sizeBytes);

/** The end of a load: its status, and the failure where it is not `ok`. */
interface LoadEnd {
  readonly status: number;
  /** Which of the load's checkpoints could not be read; out of range where that is not why. */
  readonly checkpoint: number;
  readonly failure: Failure;
}

/** How a load has ended; undefined while it runs. The shim forgets it then. */
export function pollLoad(load: number): LoadEnd | undefined {
  check("follow a load", () => exports().camem_load_poll(load, progressBytes, failureBytes));
  const { done, status, checkpoint } = decode(abi.LoadProgress, progressBytes);
  return done === 1 ? { status, checkpoint, failure: takeFailure() } : undefined;
}

/** Asks a load to stop. */
export function cancelLoad(load: number): void {
  checkStatus("cancel a load", exports().camem_load_cancel(load), [abi.Status.stale]);
}
