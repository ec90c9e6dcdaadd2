/** The index of a checkpoint in several files, such as `model.safetensors.index.json`. */

import type { TimeSlices } from "../async/time-slices.ts";
import { messageOf } from "../errors.ts";
import { formatHeaderValue, invalid } from "./header.ts";
import { JsonFieldReader } from "./json-fields.ts";

interface ShardIndex {
  /** The names of the files beside the index, in the order of their names. */
  readonly shards: readonly string[];
  /** The file of each tensor. */
  readonly shardOf: ReadonlyMap<string, string>;
}

const hint = "Give the index that was published with the checkpoint.";

export function isIndexName(path: string): boolean {
  return path.endsWith(".json");
}

/** @throws CamemError `SAFETENSORS_INVALID` */
export async function parseShardIndex(text: string, path: string, slices: TimeSlices): Promise<ShardIndex> {
  const reading = reader(text, path);
  try {
    const weightMap = findWeightMap(reading, path);
    if (weightMap === undefined) throw invalid(path, "the index has no weight_map", hint);
    return await readWeightMap(weightMap, path, slices);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw invalid(path, `the index is not JSON (${messageOf(error)})`, hint, error);
  }
}

function reader(text: string, path: string): JsonFieldReader {
  const object = text.trimStart();
  if (!object.startsWith("{")) throw invalid(path, "the index does not start with {", hint);
  return new JsonFieldReader(object);
}

/** The text of `weight_map`. */
function findWeightMap(fields: JsonFieldReader, path: string): string | undefined {
  let found: string | undefined;
  for (let field = fields.nextText(); field !== undefined; field = fields.nextText()) {
    if (field.key !== "weight_map") JSON.parse(field.valueText);
    else if (found === undefined) found = field.valueText.trim();
    else throw invalid(path, "the index has weight_map twice", hint);
  }
  return found;
}

async function readWeightMap(text: string, path: string, slices: TimeSlices): Promise<ShardIndex> {
  if (!text.startsWith("{"))
    throw invalid(path, "weight_map of the index is not a map from tensors to files", hint);
  const fields = new JsonFieldReader(text);
  const shardOf = new Map<string, string>();
  for (let field = fields.next(); field !== undefined; field = fields.next()) {
    const { key, value } = field;
    if (shardOf.has(key))
      throw invalid(path, `weight_map of the index has ${formatHeaderValue(key)} twice`, hint);
    shardOf.set(key, checkShardName(value, key, path));
    if (slices.isOver) await slices.next();
  }
  if (shardOf.size === 0) throw invalid(path, "weight_map of the index is empty", hint);
  return { shards: [...new Set(shardOf.values())].sort(), shardOf };
}

/** A file beside the index: an index must not make a load read other files. */
function checkShardName(value: unknown, tensor: string, path: string): string {
  if (typeof value === "string" && /^[^/\0]+$/.test(value) && value !== "." && value !== "..") return value;
  const problem = `weight_map has ${formatHeaderValue(value)} as the file of ${formatHeaderValue(tensor)}`;
  throw invalid(path, `${problem}; it must be the name of a file beside the index`, hint);
}
