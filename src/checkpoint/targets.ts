/** Which tensors a load writes, and whether they can be written. */

import type { TimeSlices } from "../async/time-slices.ts";
import { CamemError } from "../errors.ts";
import { allOfLoad } from "./allocation.ts";
import type { CheckpointEntry, CheckpointFile } from "./checkpoint-file.ts";
import { formatHeaderValue, invalid } from "./header.ts";
import type { LoadSafetensorsOptions } from "./load-options.ts";
import { NamePatterns } from "./name-patterns.ts";
import type { Target, Tensor } from "./tensor.ts";

/** The entries whose names `only` selects; all without it. */
export async function selectEntries(
  entries: readonly CheckpointEntry[],
  { only, allowUnmatched }: LoadSafetensorsOptions,
  path: string,
  slices: TimeSlices,
): Promise<readonly CheckpointEntry[]> {
  if (only === undefined) return entries;
  const patterns = new NamePatterns(only, "only");
  const selected: CheckpointEntry[] = [];
  for (const entry of entries) {
    if (patterns.match(entry.name) !== undefined) selected.push(entry);
    if (slices.isOver) await slices.next();
  }
  if (!allowUnmatched) patterns.assertAllUsed(namesOf(entries), path);
  return selected;
}

/** The tag of each entry, by `tags` and `tag`. */
export async function tagsByEntry(
  entries: readonly CheckpointEntry[],
  { tags = {}, tag = "weights", allowUnmatched }: LoadSafetensorsOptions,
  path: string,
  slices: TimeSlices,
): Promise<ReadonlyMap<CheckpointEntry, string>> {
  const patterns = new NamePatterns(Object.keys(tags), "tags");
  const found = new Map<CheckpointEntry, string>();
  for (const entry of entries) {
    const pattern = patterns.match(entry.name);
    found.set(entry, (pattern === undefined ? undefined : tags[pattern]) ?? tag);
    if (slices.isOver) await slices.next();
  }
  if (!allowUnmatched) patterns.assertAllUsed(namesOf(entries), path);
  return found;
}

const namesOf = (entries: readonly CheckpointEntry[]) => entries.map(({ name }) => name);

/** What a reload writes. */
interface Reload {
  readonly targets: readonly Target[];
  /** Tags without tensors that it leaves alone. */
  readonly wholeTags: ReadonlySet<string>;
}

const otherModelHint = "Reload from a checkpoint of the same model, or load it anew without `into`.";

/**
 * Matches the entries of a checkpoint with the tensors of `into`, and checks that each can be written.
 *
 * @param entries those that `only` selects
 * @throws CamemError `SAFETENSORS_INVALID`, `INVALID_ARGUMENT`, `BUFFER_ASLEEP`, `BUFFER_MOVING`, `BUFFER_FREED` or
 * `BUFFER_IMMUTABLE`
 */
export async function matchReload(
  entries: readonly CheckpointEntry[],
  into: ReadonlyMap<string, Tensor>,
  { only, onlyTags, backing }: LoadSafetensorsOptions,
  path: string,
  slices: TimeSlices,
): Promise<Reload> {
  const patterns = only === undefined ? undefined : new NamePatterns(only, "only");
  const tags = onlyTags === undefined ? undefined : new Set(onlyTags);
  const isSelected = (tensor: Tensor, name: string) =>
    (patterns === undefined || patterns.match(name) !== undefined) && (tags?.has(tensor.buffer.tag) ?? true);
  const byName = new Map(entries.map((entry) => [entry.name, entry]));
  const tensors = new Map(into);
  const unselectedTags = new Set<string>();
  const selected = new Set<Tensor>();
  const writable = new WritableCheck();
  for (const [name, tensor] of tensors) {
    if (slices.isOver) await slices.next();
    if (!isSelected(tensor, name)) {
      unselectedTags.add(tensor.buffer.tag);
      continue;
    }
    const entry = byName.get(name);
    if (entry === undefined)
      throw invalid(
        path,
        `tensor ${formatHeaderValue(name)} of \`into\` is not in the checkpoint`,
        otherModelHint,
      );
    assertSame(tensor, entry, path);
    writable.assertWritable(tensor);
    selected.add(tensor);
  }
  const targets: Target[] = [];
  for (const entry of entries) {
    if (slices.isOver) await slices.next();
    const tensor = tensors.get(entry.name);
    if (tensor === undefined)
      throw invalid(path, `tensor ${formatHeaderValue(entry.name)} is not in \`into\``, otherModelHint);
    if (selected.has(tensor)) targets.push({ entry, buffer: tensor.buffer });
  }
  if (backing === "file") assertWholeSegments(into, targets);
  const tagsOfTargets = new Set(targets.map(({ buffer }) => buffer.tag));
  return { targets, wholeTags: tagsOfTargets.difference(unselectedTags) };
}

/** @throws CamemError `SAFETENSORS_INVALID` where the checkpoint has the tensor in another form */
function assertSame(tensor: Tensor, { name, dtype, shape }: CheckpointEntry, path: string): void {
  const { shape: own } = tensor;
  if (tensor.dtype === dtype && own.length === shape.length && own.every((each, at) => each === shape[at]))
    return;
  throw invalid(
    path,
    `tensor ${formatHeaderValue(name)} is ${dtype} ${formatHeaderValue(shape)} in the checkpoint, but ${tensor.dtype} ${formatHeaderValue(own)} in \`into\``,
    otherModelHint,
  );
}

/**
 * A checkpoint is the backup of whole segments.
 *
 * @throws CamemError `INVALID_ARGUMENT`
 */
function assertWholeSegments(into: ReadonlyMap<string, Tensor>, targets: readonly Target[]): void {
  const loaded = new Set(targets.map(({ buffer }) => buffer));
  const segments = new Set(targets.map(({ buffer }) => buffer.place.segment.segmentId));
  const other = allOfLoad(into).find(
    ({ buffer }) => segments.has(buffer.place.segment.segmentId) && !loaded.has(buffer),
  );
  if (other === undefined) {
    assertOneFileEach(targets);
    return;
  }
  throw new CamemError(
    "INVALID_ARGUMENT",
    `tensor ${formatHeaderValue(other.name)} shares a segment with tensors that this load writes, so the checkpoint cannot be the backup of that segment; select all tensors of its tag, or leave backing out`,
    { property: "backing" },
  );
}

/**
 * A segment's backup is in one file.
 *
 * @throws CamemError `INVALID_ARGUMENT`
 */
function assertOneFileEach(targets: readonly Target[]): void {
  const files = new Map<number, CheckpointFile>();
  for (const { entry, buffer } of targets) {
    const { segmentId } = buffer.place.segment;
    const file = files.get(segmentId) ?? entry.file;
    files.set(segmentId, file);
    if (file === entry.file) continue;
    throw new CamemError(
      "INVALID_ARGUMENT",
      `tensor ${formatHeaderValue(entry.name)} shares a segment with tensors of another file of this checkpoint, so no file can be the backup of that segment; load from files that hold the same tensors as before, or leave backing out`,
      { property: "backing" },
    );
  }
}

/** Checks that tensors can be written, once for each segment. */
class WritableCheck {
  readonly #segments = new Set<number>();

  /** @throws CamemError `BUFFER_ASLEEP`, `BUFFER_MOVING`, `BUFFER_FREED` or `BUFFER_IMMUTABLE` */
  assertWritable({ name, buffer }: Tensor): void {
    const { segmentId } = buffer.place.segment;
    if (this.#segments.has(segmentId) && !buffer.isFreed) return;
    const { state, tag } = buffer;
    if (state === "mapped" && !buffer.immutable) {
      this.#segments.add(segmentId);
      return;
    }
    if (state === "mapped")
      throw new CamemError(
        "BUFFER_IMMUTABLE",
        `Tensor ${formatHeaderValue(name)} cannot be written: its content is immutable. Call markDirty("${tag}") first.`,
      );
    const message = `Tensor ${formatHeaderValue(name)} cannot be written: its device memory is ${state}.`;
    if (state === "freed") throw new CamemError("BUFFER_FREED", `${message} Load it anew without \`into\`.`);
    if (state === "moving")
      throw new CamemError("BUFFER_MOVING", `${message} Await the sleep or wake-up first.`);
    throw new CamemError("BUFFER_ASLEEP", `${message} Call wakeUp({ tags: ["${tag}"] }) first.`);
  }
}
