/** Writes checkpoints to load. */

import { closeSync, fsyncSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { type Layout, MiB, segmentsOf } from "./layout.ts";

const chunkBytes = 16 * MiB;
const pageBytes = 4096;

/** Tensors of one size. */
interface Tensors {
  readonly names: readonly string[];
  readonly tensorBytes: number;
}

/** Writes tensors one after the other. The bytes vary, so that no file system stores them sparsely. */
function writeTensors(path: string, { names, tensorBytes }: Tensors): void {
  const entries = names.map((name, index) => [
    name,
    {
      dtype: "U8",
      shape: [tensorBytes],
      data_offsets: [index * tensorBytes, (index + 1) * tensorBytes],
    },
  ]);
  const json = JSON.stringify(Object.fromEntries(entries));
  // The data begins with a page, as in most checkpoints.
  const header = Buffer.from(json.padEnd(Math.ceil((json.length + 8) / pageBytes) * pageBytes - 8, " "));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const sizeBytes = names.length * tensorBytes;
  const chunk = Buffer.alloc(Math.min(chunkBytes, sizeBytes), "synthetic weights, ");
  const file = openSync(path, "w");
  writeSync(file, length);
  writeSync(file, header);
  for (let written = 0; written < sizeBytes; written += chunk.length)
    writeSync(file, chunk, 0, Math.min(chunk.length, sizeBytes - written));
  // The kernel must not write the file back during a measurement.
  fsyncSync(file);
  closeSync(file);
}

const namesOf = (count: number, first = 0) =>
  Array.from({ length: count }, (_, index) => `model.layers.${first + index}.weight`);

/** Writes one tensor for each segment. */
export function writeCheckpoint(path: string, layout: Layout): void {
  writeTensors(path, { names: namesOf(segmentsOf(layout)), tensorBytes: layout.segmentBytes });
}

/** A checkpoint in several files. */
export interface Shards {
  readonly index: string;
  readonly files: readonly string[];
}

/** Writes the same tensors to `count` files, and their index. */
export function writeShards(folder: string, layout: Layout, count: number): Shards {
  const each = segmentsOf(layout) / count;
  const weightMap: Record<string, string> = {};
  const files = Array.from({ length: count }, (_, shard) => {
    const file = `model-${shard}-of-${count}.safetensors`;
    const names = namesOf(each, shard * each);
    for (const name of names) weightMap[name] = file;
    writeTensors(join(folder, file), { names, tensorBytes: layout.segmentBytes });
    return join(folder, file);
  });
  const index = join(folder, "model.safetensors.index.json");
  writeFileSync(index, JSON.stringify({ metadata: { total_size: layout.sizeBytes }, weight_map: weightMap }));
  return { index, files };
}
