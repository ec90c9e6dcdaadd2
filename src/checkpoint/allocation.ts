/** Allocates the tensors of a checkpoint, and frees them after a failed load. */

import type { CaMemAllocator } from "../allocator.ts";
import type { TimeSlices } from "../async/time-slices.ts";
import { CamemError, messageOf } from "../errors.ts";
import type { DeviceBuffer } from "../memory/buffer.ts";
import type { CheckpointEntry, CheckpointFile } from "./checkpoint-file.ts";
import type { Tensor } from "./tensor.ts";

/** All tensors of each load that allocated: their segments hold nothing else. */
const allocatedByLoad = new WeakMap<ReadonlyMap<string, Tensor>, readonly Tensor[]>();

export function isAllocatedByLoad(tensors: ReadonlyMap<string, Tensor>): boolean {
  return allocatedByLoad.has(tensors);
}

/** All tensors of the load that allocated these, also those that its caller has taken out of the map since. */
export function allOfLoad(tensors: ReadonlyMap<string, Tensor>): readonly Tensor[] {
  return allocatedByLoad.get(tensors) ?? [];
}

/** Allocates a tensor for each entry under its tag. All or nothing. A segment holds tensors of one file. */
export async function allocateTensors(
  entries: readonly CheckpointEntry[],
  { allocator, device }: { readonly allocator: CaMemAllocator; readonly device?: number | undefined },
  tags: ReadonlyMap<CheckpointEntry, string>,
  slices: TimeSlices,
): Promise<ReadonlyMap<string, Tensor>> {
  const groups = await groupByTagAndFile(tags, slices);
  const buffers = new Map<CheckpointEntry, DeviceBuffer>();
  try {
    for (const { tag, group } of groups) {
      const pool = allocator.memoryPool(tag, device === undefined ? {} : { device });
      const sizes = group.map(({ beginBytes, endBytes }) => Math.max(endBytes - beginBytes, 1));
      let index = 0;
      for (const buffer of pool.mallocEach(sizes)) {
        buffers.set(group[index++] as CheckpointEntry, buffer);
        if (slices.isOver) await slices.next();
      }
    }
  } catch (error) {
    await freeAll([...buffers.values()], error, slices);
    throw error;
  }
  const tensors = new Map<string, Tensor>();
  for (const entry of entries) {
    const { name, dtype, shape, beginBytes, endBytes } = entry;
    const buffer = buffers.get(entry);
    if (buffer) tensors.set(name, { name, dtype, shape, sizeBytes: endBytes - beginBytes, buffer });
    if (slices.isOver) await slices.next();
  }
  allocatedByLoad.set(tensors, [...tensors.values()]);
  return tensors;
}

interface EntryGroup {
  readonly tag: string;
  readonly group: CheckpointEntry[];
}

async function groupByTagAndFile(
  tags: ReadonlyMap<CheckpointEntry, string>,
  slices: TimeSlices,
): Promise<readonly EntryGroup[]> {
  const groups: EntryGroup[] = [];
  const byFile = new Map<CheckpointFile, Map<string, EntryGroup>>();
  for (const [entry, tag] of tags) {
    const ofFile = byFile.get(entry.file) ?? new Map<string, EntryGroup>();
    byFile.set(entry.file, ofFile);
    const found = ofFile.get(tag);
    if (found) found.group.push(entry);
    else {
      const added: EntryGroup = { tag, group: [entry] };
      ofFile.set(tag, added);
      groups.push(added);
    }
    if (slices.isOver) await slices.next();
  }
  return groups;
}

/** Frees the buffers of a failed load. A buffer that cannot be freed must not hide the error of the load. */
export async function freeAll(
  buffers: readonly DeviceBuffer[],
  loadError: unknown,
  slices: TimeSlices,
): Promise<void> {
  const freeErrors: unknown[] = [];
  for (const buffer of buffers) {
    try {
      buffer.abandon();
    } catch (error) {
      freeErrors.push(error);
    }
    if (slices.isOver) await slices.next();
  }
  if (freeErrors.length === 0) return;
  const reason = messageOf(loadError);
  throw new CamemError(
    loadError instanceof CamemError ? loadError.code : "ACL_CALL_FAILED",
    `${reason} And ${freeErrors.length} of the ${buffers.length} tensors allocated for it could not be freed again.`,
    { cause: new AggregateError([loadError, ...freeErrors]) },
  );
}
