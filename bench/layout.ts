/** Sizes to measure, and how memory of a size is split into segments. */

import { formatSize } from "../src/options/sizes.ts";

export const MiB = 2 ** 20;
export const GiB = 2 ** 30;

/** The smallest segment. */
export const smallSegmentBytes = 2 * MiB;
/** The segment size of a `MemoryPool` by default. */
export const pooledSegmentBytes = 32 * MiB;

/** The largest size of a quick run. */
export const quickBytes = 64 * MiB;

export interface Layout {
  readonly sizeBytes: number;
  readonly segmentBytes: number;
}

export function segmentsOf({ sizeBytes, segmentBytes }: Layout): number {
  return Math.ceil(sizeBytes / segmentBytes);
}

/** Segments as large as a pool's, or one smaller segment. */
export function pooled(sizeBytes: number): Layout {
  return { sizeBytes, segmentBytes: Math.min(sizeBytes, pooledSegmentBytes) };
}

export function describeLayout(layout: Layout): string {
  return `${formatSize(layout.sizeBytes)} in ${segmentsOf(layout)} × ${formatSize(layout.segmentBytes)}`;
}

/** The sizes at which sleeps and wake-ups are measured. */
export function transitionSizes(quick: boolean): number[] {
  return quick
    ? [2 * MiB, 16 * MiB, quickBytes]
    : [2 * MiB, 16 * MiB, 128 * MiB, 512 * MiB, GiB, 2 * GiB, 4 * GiB];
}
