/** Checkpoints in several files with an index. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, loadSafetensors } from "camem";
import { checkpointOf } from "../support/checkpoint.ts";
import { failureOf, MiB, pattern } from "../support/device.ts";

const content = {
  embedding: pattern(3 * MiB, 1),
  first: pattern(5 * MiB + 17, 2),
  second: pattern(12 * MiB, 3),
  head: pattern(1000, 4),
};
type Name = keyof typeof content;

let allocator: CaMemAllocator;
let folder: string;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  folder = mkdtempSync(join(tmpdir(), "camem-shards-"));
});

afterEach(async () => {
  await allocator.close();
  rmSync(folder, { recursive: true });
});

/** Writes files with these tensors, and their index, whose path it returns. */
function writeShards(shards: Readonly<Record<string, readonly Name[]>>, name = "model"): string {
  const weightMap: Record<string, string> = {};
  for (const [file, names] of Object.entries(shards)) {
    for (const tensor of names) weightMap[tensor] = file;
    const tensors = Object.fromEntries(names.map((tensor) => [tensor, content[tensor]]));
    writeFileSync(join(folder, file), checkpointOf(tensors));
  }
  return writeIndex({ metadata: { total_size: 1 }, weight_map: weightMap }, name);
}

function writeIndex(index: unknown, name = "model"): string {
  const path = join(folder, `${name}.safetensors.index.json`);
  writeFileSync(path, typeof index === "string" ? index : JSON.stringify(index));
  return path;
}

const two = { "b.safetensors": ["first", "second"], "a.safetensors": ["embedding", "head"] } as const;

function expectContent(tensors: Awaited<ReturnType<typeof loadSafetensors>>): void {
  for (const [name, { buffer }] of tensors) expect(buffer.read()).toEqual(content[name as Name]);
}

test("loadSafetensors() loads every file that an index names, in the order of their names", async () => {
  const tensors = await loadSafetensors(writeShards(two), { allocator });
  expect([...tensors.keys()]).toEqual(["embedding", "head", "first", "second"]);
  expectContent(tensors);
});

test("loadSafetensors() takes tags, only and into for all files of an index together", async () => {
  const path = writeShards(two);
  const tags = { first: "layers", head: "layers" };
  const tensors = await loadSafetensors(path, { allocator, tags, only: ["first", "head", "embedding"] });
  expect([...tensors.keys()]).toEqual(["embedding", "head", "first"]);
  expect(tensors.get("head")?.buffer.tag).toBe("layers");
  expectContent(tensors);
  for (const { buffer } of tensors.values()) buffer.fill(0);
  await loadSafetensors(path, { allocator, into: tensors, only: ["first", "head", "embedding"] });
  expectContent(tensors);
});

test('loadSafetensors({ backing: "file" }) keeps each segment in the file that its tensors are in', async () => {
  const tensors = await loadSafetensors(writeShards(two), { allocator, backing: "file" });
  await allocator.sleep({ level: 1 });
  const usage = allocator.usage()["weights"];
  expect(usage?.checkpointBytes).toBe(Object.values(content).reduce((sum, { length }) => sum + length, 0));
  expect(usage?.hostBytes).toBe(0);
  await allocator.wakeUp();
  expectContent(tensors);
});

test('loadSafetensors({ into, backing: "file" }) refuses files that divide the tensors otherwise', async () => {
  const into = await loadSafetensors(writeShards(two), { allocator });
  const other = writeShards({ "c.safetensors": ["embedding", "first"], "d.safetensors": ["second", "head"] });
  for (const { buffer } of into.values()) buffer.fill(1);
  const error = await failureOf(() => loadSafetensors(other, { allocator, into, backing: "file" }));
  expect(error.code).toBe("INVALID_ARGUMENT");
  expect(error.message).toContain("shares a segment with tensors of another file");
  expect(into.get("head")?.buffer.read(0, 1)).toEqual(new Uint8Array([1]));
  await loadSafetensors(other, { allocator, into });
  expectContent(into);
});

test("loadSafetensors() takes a tensor that two files have from the one that the index names", async () => {
  writeShards(two);
  writeFileSync(join(folder, "a.safetensors"), checkpointOf({ ...content, first: new Uint8Array(5) }));
  const tensors = await loadSafetensors(join(folder, "model.safetensors.index.json"), { allocator });
  expectContent(tensors);
  expect(tensors.size).toBe(4);
});

const file = "a.safetensors";
test.each([
  ["no JSON", "{", "is not JSON"],
  ["no object", "[]", "does not start with {"],
  ["text behind it", `{"weight_map":{"head":"${file}"}} x`, "is not JSON"],
  ["bad JSON beside the map", `{"metadata":{,"weight_map":{"head":"${file}"}}`, "is not JSON"],
  ["no map", { metadata: {} }, "has no weight_map"],
  ["two maps", `{"weight_map":{"head":"${file}"},"weight_map":{"tail":"${file}"}}`, "weight_map twice"],
  ["a list", { weight_map: [] }, "not a map"],
  ["an empty map", { weight_map: {} }, "is empty"],
  ["a tensor twice", `{"weight_map":{"head":"${file}","head":"${file}"}}`, "'head' twice"],
  ["a number", { weight_map: { head: 3 } }, "must be the name of a file beside the index"],
  ["another folder", { weight_map: { head: "../a.safetensors" } }, "must be the name of a file beside"],
  ["the parent", { weight_map: { head: ".." } }, "must be the name of a file beside"],
  ["an absolute path", { weight_map: { head: "/etc/passwd" } }, "must be the name of a file beside"],
  ["a missing file", { weight_map: { head: "z.safetensors" } }, "z.safetensors"],
  ["a missing tensor", { weight_map: { embedding: file, head: file, tail: file } }, "'tail' is not in"],
  [
    "an unknown tensor",
    { weight_map: { head: file } },
    "'embedding' is in 'a.safetensors', but not in the index",
  ],
])("loadSafetensors() refuses an index with %s", async (_, index, message) => {
  writeShards(two);
  const error = await failureOf(() => loadSafetensors(writeIndex(index), { allocator }));
  expect(error.code).toBe("SAFETENSORS_INVALID");
  expect(error.message).toContain(message);
  expect(allocator.getCurrentUsage()).toBe(0);
});

test("loadSafetensors() refuses an index that is a folder", async () => {
  const path = join(folder, "model.safetensors.index.json");
  mkdirSync(path);
  expect((await failureOf(() => loadSafetensors(path, { allocator }))).code).toBe("SAFETENSORS_INVALID");
});
