import { CamemError } from "../errors.ts";
import { allocateSegment, localNative, type SegmentName } from "../ffi/index.ts";
import { formatSize } from "../options/sizes.ts";

/** Allocates a segment. The error of a size that exceeds the whole device says so: there is nothing to free for it. */
export function allocateOnDevice(device: number, tagId: number, sizeBytes: number): SegmentName {
  try {
    return allocateSegment(device, tagId, sizeBytes);
  } catch (error) {
    throw neverFits(error, device, sizeBytes) ?? error;
  }
}

function neverFits(cause: unknown, device: number, sizeBytes: number): CamemError | undefined {
  if (!(cause instanceof CamemError) || cause.code !== "OUT_OF_DEVICE_MEMORY") return undefined;
  const totalBytes = totalBytesOf(device);
  if (totalBytes === undefined || sizeBytes <= totalBytes) return undefined;
  return new CamemError(
    "OUT_OF_DEVICE_MEMORY",
    `cannot allocate ${formatSize(sizeBytes)} on device ${device}: it has ${formatSize(totalBytes)} altogether, so this can never fit; split it over several devices or allocate less`,
    { cause, sizeBytes },
  );
}

function totalBytesOf(device: number): number | undefined {
  try {
    return localNative.memoryInfo(device).totalBytes;
  } catch {
    return undefined; // the failure of the allocation is the one to report
  }
}
