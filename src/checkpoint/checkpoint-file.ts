/** Opens a checkpoint of one file or of several, and reads what is in it. */

import { constants, type FileHandle, open } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { TimeSlices } from "../async/time-slices.ts";
import { type CamemError, messageOf, missingPermission } from "../errors.ts";
import * as native from "../ffi/index.ts";
import {
  formatHeaderValue,
  invalid,
  lengthFieldBytes,
  parseHeaderLength,
  parseSafetensorsHeader,
  type SafetensorsEntry,
  type SafetensorsHeader,
} from "./header.ts";
import { isIndexName, parseShardIndex } from "./shard-index.ts";

/** A safetensors file that is open. */
export interface CheckpointFile {
  readonly path: string;
  /** Its number in the shim. */
  readonly handle: number;
  readonly header: SafetensorsHeader;
}

/** A tensor of a checkpoint, and the file that it is in. */
export interface CheckpointEntry extends SafetensorsEntry {
  readonly file: CheckpointFile;
}

const otherIndexHint =
  "The index was changed, or belongs to another version of the model: download the index and its files again.";

/** A checkpoint whose files are open, and whose headers were checked. */
export class Checkpoint implements Disposable {
  readonly path: string;
  readonly #files: CheckpointFile[] = [];
  readonly #opened = new DisposableStack();
  #entries: CheckpointEntry[] = [];

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * @param path a safetensors file, or the index of several
   * @throws CamemError `SAFETENSORS_INVALID`, or `PERMISSION_MISSING` with the flag of Deno that grants it
   */
  static async open(path: string, slices: TimeSlices): Promise<Checkpoint> {
    const checkpoint = new Checkpoint(path);
    try {
      if (isIndexName(path)) await checkpoint.#addShards(slices);
      else await checkpoint.#add(path, slices, () => true);
      return checkpoint;
    } catch (error) {
      checkpoint[Symbol.dispose]();
      throw error;
    }
  }

  get files(): readonly CheckpointFile[] {
    return this.#files;
  }

  /** All tensors, file by file in the order of their data. */
  get entries(): readonly CheckpointEntry[] {
    return this.#entries;
  }

  [Symbol.dispose](): void {
    this.#opened.dispose();
  }

  async #addShards(slices: TimeSlices): Promise<void> {
    const index = await parseShardIndex(await readText(this.path), this.path, slices);
    for (const shard of index.shards)
      await this.#add(join(dirname(this.path), shard), slices, ({ name }) => {
        const owner = index.shardOf.get(name);
        if (owner === undefined)
          throw invalid(
            this.path,
            `tensor ${formatHeaderValue(name)} is in ${formatHeaderValue(shard)}, but not in the index`,
            otherIndexHint,
          );
        return owner === shard;
      });
    const found = new Set(this.#entries.map(({ name }) => name));
    for (const [name, shard] of index.shardOf) {
      if (!found.has(name))
        throw invalid(
          this.path,
          `tensor ${formatHeaderValue(name)} is not in ${formatHeaderValue(shard)}, where the index has it`,
          otherIndexHint,
        );
      if (slices.isOver) await slices.next();
    }
  }

  /** Adds the tensors of a file that `isWanted`. */
  async #add(
    path: string,
    slices: TimeSlices,
    isWanted: (entry: SafetensorsEntry) => boolean,
  ): Promise<void> {
    const descriptor = await openFile(path);
    try {
      // Before the first read, so that a change during the load is noticed.
      const opened = this.#opened.use(openNative(descriptor, path));
      const header = await readHeader(descriptor, path, slices);
      const file: CheckpointFile = { path, handle: opened.handle, header };
      this.#files.push(file);
      for (const entry of header.entries) {
        if (isWanted(entry)) this.#entries.push({ ...entry, file });
        if (slices.isOver) await slices.next();
      }
    } finally {
      await descriptor.close();
    }
  }
}

function openNative(descriptor: FileHandle, path: string): ReturnType<typeof native.openCheckpoint> {
  try {
    return native.openCheckpoint(descriptor.fd);
  } catch (error) {
    throw unreadable(path, error);
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    // Opening a FIFO without a writer would block.
    return await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw missingPermission(error) ?? unreadable(path, error);
  }
}

function unreadable(path: string, error: unknown): CamemError {
  const reason = messageOf(error);
  return invalid(
    path,
    `the checkpoint cannot be read (${reason})`,
    "Give the path of a readable .safetensors file, or of the .safetensors.index.json of several.",
    error,
  );
}

/** Ten times as long as those of the largest models. */
const longestIndexBytes = 32 * 2 ** 20;

async function readText(path: string): Promise<string> {
  const descriptor = await openFile(path);
  try {
    const { size } = await regularFile(descriptor, path);
    if (size > longestIndexBytes)
      throw invalid(path, `the index has ${size} bytes, more than ${longestIndexBytes}`, "This is no index.");
    return await descriptor.readFile("utf8");
  } finally {
    await descriptor.close();
  }
}

async function regularFile(descriptor: FileHandle, path: string): Promise<{ readonly size: number }> {
  const file = await descriptor.stat();
  if (file.isFile()) return file;
  throw invalid(path, "the checkpoint is not a regular file", "Give the path of a .safetensors file.");
}

async function readHeader(
  descriptor: FileHandle,
  path: string,
  slices: TimeSlices,
): Promise<SafetensorsHeader> {
  const { size } = await regularFile(descriptor, path);
  const lengthField = new Uint8Array(Math.min(lengthFieldBytes, size));
  await readExactly(descriptor, lengthField, path);
  // Checked before allocating: a damaged length could ask for gigabytes of host memory.
  const headerBytes = parseHeaderLength(lengthField, size, path);
  const bytes = new Uint8Array(lengthFieldBytes + headerBytes);
  await readExactly(descriptor, bytes, path);
  return parseSafetensorsHeader(bytes, size, path, slices);
}

/** Fills `target` from the start of the file on. */
async function readExactly(descriptor: FileHandle, target: Uint8Array, path: string): Promise<void> {
  let doneBytes = 0;
  while (doneBytes < target.length) {
    const bytesRead = await readSome(descriptor, target.subarray(doneBytes), doneBytes, path);
    if (bytesRead === 0)
      throw invalid(
        path,
        "the file ends while it is being read",
        "Load again once nothing writes to the file.",
      );
    doneBytes += bytesRead;
  }
}

async function readSome(
  descriptor: FileHandle,
  target: Uint8Array,
  positionBytes: number,
  path: string,
): Promise<number> {
  try {
    const { bytesRead } = await descriptor.read(target, 0, target.length, positionBytes);
    return bytesRead;
  } catch (error) {
    throw unreadable(path, error);
  }
}
