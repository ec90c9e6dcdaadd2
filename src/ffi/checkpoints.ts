/** Checkpoint files as backups of segments. */

import { exports } from "./library.ts";
import type { SegmentName } from "./segments.ts";
import { check, failureBytes, firstResult, takeFirst } from "./status.ts";

/** A piece of a segment's content in a checkpoint. */
export interface CheckpointExtent {
  readonly segmentOffsetBytes: number;
  readonly fileOffsetBytes: number;
  readonly sizeBytes: number;
}

/** Opens a checkpoint by its file descriptor. Dispose of it once segments have their extents. */
export function openCheckpoint(descriptor: number): Disposable & { readonly handle: number } {
  check("use the checkpoint as a backup", () =>
    exports().camem_checkpoint_open(descriptor, firstResult, failureBytes),
  );
  const handle = takeFirst();
  return { handle, [Symbol.dispose]: () => void exports().camem_checkpoint_close(handle) };
}

/** Makes a checkpoint the backup of a segment whose content has been discarded `discards` times, and no more since. */
export function useCheckpoint(
  { address, segmentId }: SegmentName,
  discards: number,
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
    exports().camem_segment_use_checkpoint(
      address,
      segmentId,
      discards,
      handle,
      words,
      extents.length,
      failureBytes,
    ),
  );
}
