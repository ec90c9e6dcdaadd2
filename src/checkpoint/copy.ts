/** Copies the data of a checkpoint to device memory. */

import type { FileHandle } from "node:fs/promises";
import type { TimeSlices } from "../async/time-slices.ts";
import { CamemError } from "../errors.ts";
import { readExactly } from "./checkpoint-file.ts";
import type { DiscardWatch } from "./discard-watch.ts";
import type { SafetensorsHeader } from "./header.ts";
import type { Target } from "./tensor.ts";

/** Bounds the host memory of a load, and the time of one read. */
const chunkBytes = 16 * 1024 * 1024;

/** Bounds the time that one copy blocks the event loop. */
const copyBytes = 4 * 1024 * 1024;

interface CopyOptions {
  readonly header: SafetensorsHeader;
  readonly watch: DiscardWatch;
  readonly path: string;
  readonly signal: AbortSignal | undefined;
  readonly slices: TimeSlices;
}

/** Copies the targets, which are in the order of the data. Reads nothing else of the file. */
export async function copyData(
  handle: FileHandle,
  targets: readonly Target[],
  { header, watch, path, signal, slices }: CopyOptions,
): Promise<void> {
  // Reused, since `DeviceBuffer.write` blocks until its copy is done.
  const staging = new Uint8Array(Math.min(chunkBytes, header.dataSizeBytes));
  const pieces = new Pieces(targets);
  while (true) {
    throwIfAborted(signal, path);
    const range = pieces.nextRange(staging.length);
    if (range === undefined) return;
    const chunk = staging.subarray(0, range.endBytes - range.beginBytes);
    await readExactly(handle, chunk, header.dataOffsetBytes + range.beginBytes, path);
    watch.assertKept(path);
    while (pieces.writeNext(chunk, range.beginBytes)) if (slices.isOver) await slices.next();
    // Awaiting a read is not enough: Bun resumes a completed read before other tasks.
    await slices.next();
  }
}

/** The content of targets, in pieces that one copy moves. */
class Pieces {
  readonly #targets: readonly Target[];
  /** The target that is written next, and how much of it has been. */
  #index = 0;
  #doneBytes = 0;

  constructor(targets: readonly Target[]) {
    this.#targets = targets.filter(({ entry }) => entry.endBytes > entry.beginBytes);
  }

  /** The next bytes of the data to read: at most `mostBytes`, without a gap; undefined at the end. */
  nextRange(mostBytes: number): { readonly beginBytes: number; readonly endBytes: number } | undefined {
    const first = this.#targets[this.#index];
    if (first === undefined) return undefined;
    const beginBytes = first.entry.beginBytes + this.#doneBytes;
    let endBytes = first.entry.endBytes;
    for (let index = this.#index + 1; endBytes - beginBytes < mostBytes; index++) {
      const next = this.#targets[index]?.entry;
      if (next?.beginBytes !== endBytes) break;
      endBytes = next.endBytes;
    }
    return { beginBytes, endBytes: Math.min(endBytes, beginBytes + mostBytes) };
  }

  /** Writes the next piece of `chunk`, which begins at byte `chunkBegin` of the data. False at the end of the chunk. */
  writeNext(chunk: Uint8Array, chunkBegin: number): boolean {
    const target = this.#targets[this.#index];
    if (target === undefined) return false;
    const { beginBytes, endBytes } = target.entry;
    const from = beginBytes + this.#doneBytes;
    const to = Math.min(endBytes, chunkBegin + chunk.length, from + copyBytes);
    if (from >= to) return false;
    target.buffer.write(chunk.subarray(from - chunkBegin, to - chunkBegin), this.#doneBytes);
    this.#doneBytes += to - from;
    if (to === endBytes) {
      this.#index++;
      this.#doneBytes = 0;
    }
    return true;
  }
}

/** @throws CamemError `ABORTED` */
export function throwIfAborted(signal: AbortSignal | undefined, path: string): void {
  if (signal?.aborted) {
    throw new CamemError("ABORTED", `The load of ${path} was aborted by its signal.`, {
      cause: signal.reason,
    });
  }
}
