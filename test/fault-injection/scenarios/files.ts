/** Scenarios in which content is in files: checkpoints and spilled backups. */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, loadSafetensors } from "camem";
import { checkpointOf } from "../../support/checkpoint.ts";
import { assertNoMisuse, assertNothingLeft, memory, setFaults } from "../strict-runtime.ts";
import { assertContent, fill, mebibyte, nextSeed, pattern, rejection } from "./buffers.ts";

/** Writes a checkpoint with one tensor into a folder of its own. */
function writeCheckpoint(sizeBytes: number): { path: string; bytes: Uint8Array; folder: string } {
  const folder = mkdtempSync(join(tmpdir(), "camem-strict-checkpoint-"));
  const bytes = pattern(sizeBytes, nextSeed());
  const path = join(folder, "model.safetensors");
  writeFileSync(path, checkpointOf({ tensor: bytes }));
  return { path, bytes, folder };
}

/** The content is several times as large as the staging memory, so every part of the staging memory is used again. */
export async function fileBackedContent(): Promise<void> {
  const checkpoint = writeCheckpoint(90 * mebibyte + 5);
  const allocator = CaMemAllocator.getInstance({ hostBudget: 0, spillDir: checkpoint.folder, verify: true });
  const tensors = await loadSafetensors(checkpoint.path, { allocator, tag: "weights", backing: "file" });
  const buffer = tensors.get("tensor")?.buffer;
  assert(buffer);
  const loaded = { buffer, bytes: checkpoint.bytes, ptr: buffer.ptr };
  const spilled = [70 * mebibyte + 1, 5000].map((size) => fill(allocator.malloc(size, { tag: "buffers" })));
  allocator.defineTag("buffers", { immutable: true });
  for (const round of ["once", "twice"]) {
    await allocator.sleep();
    assert.equal(memory().physicalBytes, 0);
    await allocator.wakeUp();
    for (const entry of [loaded, ...spilled]) assertContent(entry, `after sleeping ${round}`);
    assertNoMisuse(`after sleeping ${round}`);
  }
  await allocator.close();
  rmSync(checkpoint.folder, { recursive: true });
}

/** Waiting for streams and for the device fails while copies run: the memory that they use stays until they end. */
export async function fileCopyWaitFails(): Promise<void> {
  const checkpoint = writeCheckpoint(5 * mebibyte);
  const { path, folder } = checkpoint;
  for (const then of ["again", "deeper", "free", "markDirty", "close"] as const) {
    const allocator = CaMemAllocator.getInstance({ hostBudget: 2 * mebibyte, spillDir: folder });
    const tensors = await loadSafetensors(path, { allocator, tag: "weights", backing: "file" });
    const buffer = tensors.get("tensor")?.buffer;
    assert(buffer);
    const loaded = { buffer, bytes: checkpoint.bytes, ptr: buffer.ptr };
    const others = [3 * mebibyte, 5000].map((size) => fill(allocator.malloc(size, { tag: "buffers" })));
    for (const transition of ["sleep", "wakeUp"] as const) {
      setFaults("aclrtSynchronizeStream:1+=207020,aclrtSynchronizeDevice:1+=207020");
      await rejection(allocator[transition]());
      setFaults();
      const when = `after a ${transition} whose copies could not be waited for, then ${then}`;
      assertNoMisuse(when);
      if (then === "close") break;
      if (then === "free") for (const each of [loaded, ...others]) each.buffer.free();
      if (then === "markDirty" && transition === "sleep") allocator.markDirty("buffers");
      if (then === "deeper") await allocator.sleep({ level: 2, tags: ["weights"] });
      if (then === "free" || then === "deeper") break;
      await allocator[transition]();
      assertNoMisuse(when);
    }
    if (then === "again" || then === "markDirty")
      for (const entry of [loaded, ...others]) assertContent(entry, "after waiting failed");
    await allocator.close();
    assertNothingLeft();
  }
  rmSync(folder, { recursive: true });
}
