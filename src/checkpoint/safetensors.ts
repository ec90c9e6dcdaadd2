import { TimeSlices } from "../async/time-slices.ts";
import { CamemError } from "../errors.ts";
import * as native from "../ffi/index.ts";
import { allocateTensors, freeAll } from "./allocation.ts";
import { Checkpoint } from "./checkpoint-file.ts";
import { copyData, throwIfAborted } from "./copy.ts";
import { DiscardWatch } from "./discard-watch.ts";
import { formatHeaderValue } from "./header.ts";
import { checkOptions, fileNameOf, type LoadSafetensorsOptions } from "./load-options.ts";
import { beginLoad } from "./loads.ts";
import { matchReload, selectEntries, tagsByEntry } from "./targets.ts";
import type { Target, Tensor } from "./tensor.ts";

/**
 * Loads a safetensors checkpoint into device memory. Checks all headers before allocating. Sub-allocates the tensors in a few
 * large segments of the memory pools of their tags (aclrtReserveMemAddress, aclrtMallocPhysical, aclrtMapMem). Then threads read
 * the data in chunks of 1 MiB and copy it (aclrtMemcpy, host to device), several files side by side. The event loop runs other
 * tasks meanwhile.
 *
 * With `into`, overwrites the tensors of an earlier load and allocates nothing. Checks names, dtypes, shapes and the state of
 * every buffer before the first write. If reading fails later, the tensors stay allocated with undefined content: load again.
 * `only` and `onlyTags` select the tensors that are loaded.
 *
 * A load that resolves has written the whole checkpoint, or all that is selected of it. It rejects if it finds a tensor asleep or
 * moving, or if a sleep has discarded its content meanwhile, even if the memory is awake again.
 *
 * @param path the path or `file:` URL of a `.safetensors` file, or of the `.safetensors.index.json` of several
 * @returns all loaded tensors by name, file by file in the order of their data; with `into`, the same map
 * @throws CamemError `INVALID_ARGUMENT`, also for a pattern that matches no tensor; `INVALID_TAG`; `SAFETENSORS_INVALID` if the
 * file cannot be read, breaks the format or does not match `into`; `BUFFER_ASLEEP`, `BUFFER_MOVING`, `BUFFER_FREED` or
 * `BUFFER_IMMUTABLE` if a tensor cannot be written, or a sleep discarded it during the load; `FILE_CHANGED` where somebody
 * writes to the file meanwhile; `FILE_FAILED` with `backing: "file"`; `ABORTED`; errors of `MemoryPool.mallocAll`, such as
 * `OUT_OF_DEVICE_MEMORY`. A failed load frees what it allocated.
 */
export async function loadSafetensors(
  path: string | URL,
  options: LoadSafetensorsOptions,
): Promise<ReadonlyMap<string, Tensor>> {
  checkOptions(options);
  const fileName = fileNameOf(path);
  throwIfAborted(options.signal, fileName);
  const closing = new AbortController();
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  const forget = options.allocator.onClose((reason) => {
    closing.abort(reason);
    return ended;
  });
  const signal = AbortSignal.any([closing.signal, ...(options.signal ? [options.signal] : [])]);
  try {
    return await load(fileName, { ...options, signal });
  } finally {
    forget();
    end();
  }
}

async function load(
  path: string,
  options: LoadSafetensorsOptions & { readonly signal: AbortSignal },
): Promise<ReadonlyMap<string, Tensor>> {
  const { signal } = options;
  const slices = new TimeSlices();
  using checkpoint = await Checkpoint.open(path, slices);
  const { tensors, targets, wholeTags, endLoad } = await prepareTargets(checkpoint, options, slices);
  let held = 0;
  try {
    try {
      for (const { buffer } of targets) {
        buffer.hold();
        held++;
        if (slices.isOver) await slices.next();
      }
      const watch = new DiscardWatch(targets.map(({ buffer }) => buffer));
      await copyData(targets, { files: checkpoint.files, watch, path, signal, slices });
      if (options.backing === "file") await backByFiles(targets, watch, slices);
      watch.assertKept(path);
      assertNoneFreed(targets);
    } finally {
      for (const { buffer } of targets.slice(0, held)) buffer.letGo();
    }
  } catch (error) {
    endLoad({ succeeded: false });
    if (options.into === undefined)
      await freeAll(
        targets.map(({ buffer }) => buffer),
        error,
        slices,
      );
    throw error;
  }
  endLoad({ succeeded: true, wholeTags });
  return tensors;
}

/** @throws CamemError `BUFFER_FREED` */
function assertNoneFreed(targets: readonly Target[]): void {
  const freed = targets.find(({ buffer }) => buffer.isFreed);
  if (freed === undefined) return;
  throw new CamemError(
    "BUFFER_FREED",
    `tensor ${formatHeaderValue(freed.entry.name)} was freed while it was being loaded; load it anew without \`into\``,
  );
}

interface PreparedLoad {
  /** The result of the load. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** The tensors to write, in the order of the data. */
  readonly targets: readonly Target[];
  /** Tags without tensors in `into` that the load leaves alone. */
  readonly wholeTags: ReadonlySet<string>;
  /** The load has begun: until it ends, no other load makes its memory immutable. */
  readonly endLoad: ReturnType<typeof beginLoad>;
}

/** Allocates or matches the tensors to write. A caller may change the map of `into` from then on. */
async function prepareTargets(
  { entries, path }: Checkpoint,
  options: LoadSafetensorsOptions,
  slices: TimeSlices,
): Promise<PreparedLoad> {
  const { allocator, into } = options;
  const selected = await selectEntries(entries, options, path, slices);
  if (into !== undefined) {
    const reload = await matchReload(selected, into, options, path, slices);
    const endLoad = beginLoad(allocator, new Set(reload.targets.map(({ buffer }) => buffer.tag)));
    return { tensors: into, ...reload, endLoad };
  }
  const tags = await tagsByEntry(selected, options, path, slices);
  const wholeTags = new Set(tags.values());
  const endLoad = beginLoad(allocator, wholeTags);
  try {
    const tensors = await allocateTensors(selected, options, tags, slices);
    const targets: Target[] = [];
    for (const entry of selected) {
      const buffer = tensors.get(entry.name)?.buffer;
      if (buffer) targets.push({ entry, buffer });
      if (slices.isOver) await slices.next();
    }
    return { tensors, targets, wholeTags, endLoad };
  } catch (error) {
    endLoad({ succeeded: false });
    throw error;
  }
}

/** Declares each segment's content to be in a file. */
async function backByFiles(
  targets: readonly Target[],
  watch: DiscardWatch,
  slices: TimeSlices,
): Promise<void> {
  const bySegment = new Map<number, SegmentExtents>();
  for (const { entry, buffer } of targets) {
    const { beginBytes, endBytes, file } = entry;
    if (endBytes === beginBytes) continue;
    const { segment, offsetBytes: segmentOffsetBytes } = buffer.place;
    const own = bySegment.get(segment.segmentId) ?? { segment, handle: file.handle, extents: [] };
    const fileOffsetBytes = file.header.dataOffsetBytes + beginBytes;
    own.extents.push({ segmentOffsetBytes, fileOffsetBytes, sizeBytes: endBytes - beginBytes });
    bySegment.set(segment.segmentId, own);
    if (slices.isOver) await slices.next();
  }
  for (const { segment, handle, extents } of bySegment.values()) {
    extents.sort((a, b) => a.segmentOffsetBytes - b.segmentOffsetBytes);
    native.useCheckpoint(segment, watch.discardsOf(segment.segmentId), handle, extents);
    if (slices.isOver) await slices.next();
  }
}

/** Where the content of a segment is in a file. */
interface SegmentExtents {
  readonly segment: native.SegmentName;
  /** Of the file. */
  readonly handle: number;
  readonly extents: native.CheckpointExtent[];
}
