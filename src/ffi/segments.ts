/** Segments of device memory: allocation, content and backups. */

import { formatSize } from "../options/sizes.ts";
import { exports } from "./library.ts";
import {
  check,
  failureBytes,
  firstResult,
  formatAddress,
  secondResult,
  takeFirst,
  takeSecond,
} from "./status.ts";
import type { Decoded } from "./struct.ts";
import type * as abi from "./symbols.gen.ts";

export type SegmentSnapshot = Decoded<typeof abi.SegmentInfo>;

/** Names a segment for good: addresses are reused, ids are not. */
export interface SegmentName {
  readonly address: number;
  readonly segmentId: number;
}

export function allocateSegment(device: number, tag: number, sizeBytes: number): SegmentName {
  check(
    () => `allocate ${formatSize(sizeBytes)} on device ${device}`,
    () => exports().camem_segment_allocate(device, tag, sizeBytes, firstResult, secondResult, failureBytes),
  );
  return { address: takeFirst(), segmentId: takeSecond() };
}

export function freeSegment({ address, segmentId }: SegmentName): void {
  check(
    () => `free the buffer at ${formatAddress(address)}`,
    () => exports().camem_segment_free(address, segmentId, failureBytes),
  );
}

export function writeSegment(
  { address, segmentId }: SegmentName,
  offsetBytes: number,
  source: Uint8Array,
): void {
  check(
    () => `write ${formatSize(source.length)} at ${formatAddress(address + offsetBytes)}`,
    () => exports().camem_segment_write(address, segmentId, offsetBytes, source, source.length, failureBytes),
  );
}

export function readSegment(
  { address, segmentId }: SegmentName,
  offsetBytes: number,
  target: Uint8Array,
): void {
  check(
    () => `read ${formatSize(target.length)} at ${formatAddress(address + offsetBytes)}`,
    () => exports().camem_segment_read(address, segmentId, offsetBytes, target, target.length, failureBytes),
  );
}

export function fillSegment(
  { address, segmentId }: SegmentName,
  offsetBytes: number,
  sizeBytes: number,
  value: number,
): void {
  check(
    () => `fill ${formatSize(sizeBytes)} at ${formatAddress(address + offsetBytes)}`,
    () => exports().camem_segment_fill(address, segmentId, offsetBytes, sizeBytes, value, failureBytes),
  );
}

export function readBackup(
  { address, segmentId }: SegmentName,
  offsetBytes: number,
  target: Uint8Array,
): void {
  check(
    () => `read the backup of ${formatAddress(address)}`,
    () => exports().camem_backup_read(address, segmentId, offsetBytes, target, target.length, failureBytes),
  );
}
