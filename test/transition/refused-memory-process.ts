/**
 * `refused-memory-process.ts mmap|madvise rejects|spills`: a process that gets neither page-locked nor ordinary memory for the backups
 * of a sleep, without and with a spill folder; page-locking.test.ts starts it.
 */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator } from "camem";
import { accounting, failureOf, MiB, nothingHeld, pattern, setFaults } from "../support/device.ts";
import { errno, failSystemCall } from "../support/system-calls.ts";

const [call = "", outcome] = process.argv.slice(2);
if (call !== "mmap" && call !== "madvise") throw new Error(`there is no scenario ${call}`);
const folder = mkdtempSync(join(tmpdir(), "camem-refused-"));
const spillDir = outcome === "spills" ? folder : undefined;
const allocator = CaMemAllocator.getInstance({ backend: "emulator", pageable: true, spillDir });
const sizes = [8 * MiB, 14 * MiB];
const backupBytes = 22 * MiB;

const buffers = sizes.map((sizeBytes, index) => {
  const content = pattern(sizeBytes, index);
  const buffer = allocator.malloc(sizeBytes, { tag: ["weights", "buffers"][index] });
  buffer.write(content);
  return { buffer, content };
});

function assertContents(): void {
  for (const { buffer, content } of buffers) assert.equal(Buffer.compare(buffer.read(), content), 0);
}

try {
  // The first call page-locks 8 MiB, which become staging.
  setFaults("aclrtMallocHost:2+=207001");
  // Nothing else asks for exactly as much as the backups need.
  failSystemCall({ call, errno: errno.noMemory, where: [1, backupBytes] });
  if (outcome === "spills") {
    const report = await allocator.sleep();
    assert.equal(report.spilledBytes, backupBytes);
    assert.equal(report.pageableBytes, 0);
    await allocator.wakeUp();
  } else {
    const error = await failureOf(() => allocator.sleep());
    assert.equal(error.code, "OUT_OF_HOST_MEMORY");
    assert.equal(error.call, call);
    assert.match(error.message, /nothing has changed/);
    assert.equal(allocator.isSleeping, false);
    assert.equal(allocator.hostUsage().pageLockedBytes, 0);
  }
  setFaults("");
  assertContents();
  await allocator.close();
  assert.deepEqual(accounting(), nothingHeld);
} finally {
  rmSync(folder, { recursive: true });
}
