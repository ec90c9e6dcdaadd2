/** Checkpoint files as backups of segments. */

import { exports } from "./library.ts";
import type { SegmentName } from "./segments.ts";
import { check, failureBytes, firstResult, takeFirst } from "./status.ts";
import { type Decoded, writeU64 } from "./struct.ts";
import { FileExtent } from "./symbols.gen.ts";

/** A piece of a segment's content in a checkpoint. */
export type CheckpointExtent = Decoded<typeof FileExtent>;

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
  const { sizeBytes, fields } = FileExtent;
  const bytes = new Uint8Array(extents.length * sizeBytes);
  const view = new DataView(bytes.buffer);
  for (const [index, extent] of extents.entries()) {
    const start = index * sizeBytes;
    writeU64(view, start + fields.segmentOffsetBytes.offset, extent.segmentOffsetBytes);
    writeU64(view, start + fields.fileOffsetBytes.offset, extent.fileOffsetBytes);
    writeU64(view, start + fields.sizeBytes.offset, extent.sizeBytes);
  }
  check("use the checkpoint as a backup", () =>
    exports().camem_segment_use_checkpoint(
      address,
      segmentId,
      discards,
      handle,
      bytes,
      extents.length,
      failureBytes,
    ),
  );
}
