/** Tags by tensor name, and loads of a part of a checkpoint. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, loadSafetensors, type Tensor } from "camem";
import { checkpointOf } from "../support/checkpoint.ts";
import { codeOf, failureOf, pattern } from "../support/device.ts";

const content = {
  "vision.patch": pattern(3000, 1),
  "text.embed": pattern(5000, 2),
  "vision.norm": pattern(700, 3),
  "lm_head.weight": pattern(4000, 4),
};
const changed = Object.fromEntries(
  Object.entries(content).map(([name, { length }], index) => [name, pattern(length, index + 50)]),
);
const tags = { "vision.*": "frozen", "lm_head.*": "head" };

let allocator: CaMemAllocator;
let folder: string;
let path: string;
let changedPath: string;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  folder = mkdtempSync(join(tmpdir(), "camem-selection-"));
  path = join(folder, "model.safetensors");
  changedPath = join(folder, "changed.safetensors");
  writeFileSync(path, checkpointOf(content));
  writeFileSync(changedPath, checkpointOf(changed));
  allocator.defineTag("frozen", { 1: "offload", 2: "offload" });
  allocator.defineTag("head", { 1: "offload", 2: "discard" });
});

afterEach(async () => {
  await allocator.close();
  rmSync(folder, { recursive: true });
});

const bytesOf = (tensors: ReadonlyMap<string, Tensor>) =>
  Object.fromEntries([...tensors].map(([name, { buffer }]) => [name, buffer.read()]));
const tagsOf = (tensors: ReadonlyMap<string, Tensor>) =>
  Object.fromEntries([...tensors].map(([name, { buffer }]) => [name, buffer.tag]));

test("loadSafetensors({ tags }) gives each tensor the tag of the first pattern that matches its name", async () => {
  const tensors = await loadSafetensors(path, {
    allocator,
    tag: "rest",
    tags: { ...tags, "vision.norm": "late" },
    allowUnmatched: true,
  });
  expect([...tensors.keys()]).toEqual(Object.keys(content));
  expect(tagsOf(tensors)).toEqual({
    "vision.patch": "frozen",
    "text.embed": "rest",
    "vision.norm": "frozen",
    "lm_head.weight": "head",
  });
  expect(bytesOf(tensors)).toEqual(content);
});

test("loadSafetensors({ tags }) uses a pattern named like a property of objects", async () => {
  writeFileSync(path, checkpointOf({ constructor: pattern(10, 1), other: pattern(10, 2) }));
  const tensors = await loadSafetensors(path, { allocator, tags: { constructor: "frozen" } });
  expect(tagsOf(tensors)).toEqual({ constructor: "frozen", other: "weights" });
});

test("loadSafetensors({ tags }) allocates nothing when a pattern matches no tensor", async () => {
  const failure = await failureOf(() =>
    loadSafetensors(path, { allocator, tags: { ...tags, "audio.*": "frozen" } }),
  );
  expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", property: "tags" });
  expect(allocator.getCurrentUsage()).toBe(0);
  const options = { allocator, tags: { "audio.*": "frozen" }, allowUnmatched: true };
  expect((await loadSafetensors(path, options)).size).toBe(4);
});

test("loadSafetensors({ tags }) allocates nothing when a tag is invalid", async () => {
  const options = { allocator, tags: { "vision.*": "frozen", "lm_head.*": "" } };
  expect(await codeOf(() => loadSafetensors(path, options))).toBe("INVALID_TAG");
  expect(allocator.getCurrentUsage()).toBe(0);
});

test("loadSafetensors({ onlyTags }) reloads the tags that a level 2 sleep lost while others sleep", async () => {
  const tensors = await loadSafetensors(path, { allocator, tags });
  await allocator.sleep({ level: 2 });
  const { lostTags } = await allocator.wakeUp({ tags: ["weights", "head"] });
  expect(new Set(lostTags)).toEqual(new Set(["weights", "head"]));
  const options = { allocator, into: tensors, onlyTags: lostTags };
  expect(await loadSafetensors(changedPath, options)).toBe(tensors);
  await allocator.wakeUp();
  expect(bytesOf(tensors)).toEqual({
    ...content,
    "text.embed": changed["text.embed"],
    "lm_head.weight": changed["lm_head.weight"],
  } as never);
});

test("loadSafetensors({ onlyTags }) accepts a checkpoint without the tensors of other tags", async () => {
  const tensors = await loadSafetensors(path, { allocator, tags });
  writeFileSync(changedPath, checkpointOf({ "lm_head.weight": pattern(4000, 9) }));
  const options = { allocator, into: tensors };
  expect(await codeOf(() => loadSafetensors(changedPath, options))).toBe("SAFETENSORS_INVALID");
  await loadSafetensors(changedPath, { ...options, onlyTags: ["head"] });
  expect(bytesOf(tensors)).toEqual({ ...content, "lm_head.weight": pattern(4000, 9) });
});

test("loadSafetensors({ only }) loads the tensors that a pattern matches", async () => {
  const some = await loadSafetensors(path, { allocator, only: ["vision.norm", "lm_head.*"] });
  expect(bytesOf(some)).toEqual({
    "vision.norm": content["vision.norm"],
    "lm_head.weight": content["lm_head.weight"],
  });
});

test("loadSafetensors({ only, into }) overwrites the tensors that a pattern matches", async () => {
  const tensors = await loadSafetensors(path, { allocator });
  await loadSafetensors(changedPath, { allocator, into: tensors, only: ["vision.*"] });
  expect(bytesOf(tensors)).toEqual({
    ...content,
    "vision.patch": changed["vision.patch"],
    "vision.norm": changed["vision.norm"],
  } as never);
});

test("loadSafetensors({ only, into }) refuses a selected tensor that the file does not have", async () => {
  const tensors = await loadSafetensors(path, { allocator });
  writeFileSync(changedPath, checkpointOf({ "vision.patch": pattern(3000, 9) }));
  const options = { allocator, into: tensors, only: ["vision.*"] };
  const failure = await failureOf(() => loadSafetensors(changedPath, options));
  expect(failure.message).toContain("vision.norm");
  expect(bytesOf(tensors)).toEqual(content);
});

test("loadSafetensors({ only, into }) leaves a tag mutable when it loads a part of it", async () => {
  allocator.defineTag("weights", { immutable: true });
  const tensors = await loadSafetensors(path, { allocator });
  allocator.markDirty("weights");
  await loadSafetensors(changedPath, { allocator, into: tensors, only: ["vision.*"] });
  expect(tensors.get("text.embed")?.buffer.immutable).toBe(false);
  await loadSafetensors(changedPath, { allocator, into: tensors });
  expect(tensors.get("text.embed")?.buffer.immutable).toBe(true);
});

test('loadSafetensors({ backing: "file" }) writes nothing when it leaves out tensors of a segment', async () => {
  const tensors = await loadSafetensors(path, { allocator, tags });
  const options = { allocator, into: tensors as Map<string, Tensor>, backing: "file" } as const;
  const refused = () => loadSafetensors(changedPath, { ...options, only: ["vision.patch"] });
  expect(await failureOf(refused)).toMatchObject({ code: "INVALID_ARGUMENT", property: "backing" });
  const norm = tensors.get("vision.norm");
  options.into.delete("vision.norm");
  expect(await codeOf(refused)).toBe("INVALID_ARGUMENT");
  if (norm) options.into.set("vision.norm", norm);
  expect(bytesOf(tensors)).toEqual(content as never);
  await loadSafetensors(changedPath, { ...options, onlyTags: ["frozen"] });
  await allocator.sleep();
  expect(allocator.usage()["frozen"]?.checkpointBytes).toBe(3700);
  await allocator.wakeUp();
  expect(tensors.get("vision.norm")?.buffer.read()).toEqual(changed["vision.norm"] as never);
});
