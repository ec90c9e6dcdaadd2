/** Copies the content of checkpoints to device memory. */

import { setImmediate } from "node:timers/promises";
import { sleep } from "../async/sleep.ts";
import type { TimeSlices } from "../async/time-slices.ts";
import { CamemError } from "../errors.ts";
import * as native from "../ffi/index.ts";
import type { CheckpointFile } from "./checkpoint-file.ts";
import type { DiscardWatch } from "./discard-watch.ts";
import { invalid } from "./header.ts";
import type { Target } from "./tensor.ts";

interface CopyOptions {
  readonly files: readonly CheckpointFile[];
  readonly watch: DiscardWatch;
  readonly path: string;
  readonly signal: AbortSignal | undefined;
  readonly slices: TimeSlices;
}

/** For this long a load is asked in each turn of the event loop whether it has ended: most small ones end meanwhile. */
const eagerMs = 2;
const pollMs = 1;

/** Copies the targets, which are in the order of the files and of their data. Reads nothing else of the files. */
export async function copyData(targets: readonly Target[], options: CopyOptions): Promise<void> {
  const { path, signal } = options;
  const byDevice = Map.groupBy(
    targets.filter(({ entry }) => entry.endBytes > entry.beginBytes),
    ({ buffer }) => buffer.device,
  );
  for (const [device, own] of byDevice) {
    const pieces = await encodePieces(own, options);
    throwIfAborted(signal, path);
    const load = native.startLoad(
      device,
      options.files.map(({ handle }) => handle),
      pieces,
    );
    await follow(load, options);
  }
}

async function encodePieces(
  targets: readonly Target[],
  { files, watch, slices }: CopyOptions,
): Promise<native.LoadPieces> {
  const pieces = new native.LoadPieces(targets.length);
  const indexes = new Map(files.map((file, index) => [file, index]));
  for (const { entry, buffer } of targets) {
    const { segment, offsetBytes } = buffer.place;
    pieces.add({
      segment,
      discards: watch.discardsOf(segment.segmentId),
      segmentOffsetBytes: offsetBytes,
      checkpoint: indexes.get(entry.file) ?? files.length,
      fileOffsetBytes: entry.file.header.dataOffsetBytes + entry.beginBytes,
      sizeBytes: entry.endBytes - entry.beginBytes,
    });
    if (slices.isOver) await slices.next();
  }
  return pieces;
}

async function follow(load: number, { files, watch, path, signal }: CopyOptions): Promise<void> {
  const cancel = () => native.cancelLoad(load);
  signal?.addEventListener("abort", cancel, { once: true });
  if (signal?.aborted) cancel();
  const startedMs = performance.now();
  try {
    let end = native.pollLoad(load);
    while (end === undefined) {
      await (performance.now() - startedMs < eagerMs ? setImmediate() : sleep(pollMs));
      end = native.pollLoad(load);
    }
    const { status, checkpoint, failure } = end;
    if (status === native.Status.ok) return;
    throwIfAborted(signal, path);
    const file = files[checkpoint]?.path ?? path;
    if (status === native.Status.file_changed) throw changed(file, failure);
    if (status === native.Status.file_failed)
      throw invalid(
        file,
        `the checkpoint cannot be read (${failure.call}: ${failure.message})`,
        "Check the disk, then load again.",
      );
    watch.assertKept(path);
    throw native.statusError(status, failure, { attempt: `load ${path} into device memory` });
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

function changed(file: string, { call, message }: native.Failure): CamemError {
  const hint = "Load again once nothing writes to the file.";
  if (call !== "") return invalid(file, `the file ends while it is being read`, hint);
  return new CamemError("FILE_CHANGED", `${file}: ${message}, or while it was. ${hint}`);
}

/** @throws CamemError `ABORTED`, or `CLOSED` where the signal is that of the allocator's end */
export function throwIfAborted(signal: AbortSignal | undefined, path: string): void {
  if (signal?.aborted) {
    if (signal.reason instanceof CamemError && signal.reason.code === "CLOSED") throw signal.reason;
    throw new CamemError("ABORTED", `The load of ${path} was aborted by its signal.`, {
      cause: signal.reason,
    });
  }
}
