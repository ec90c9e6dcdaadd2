/** A process whose disk fails in the way that its argument names; spill.test.ts starts it. */

import { dlopen } from "bun:ffi";
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, type CamemError } from "camem";
import { accounting, failureOf, MiB, nothingHeld, pattern } from "../support/device.ts";
import { errno, type FailingCall, failSystemCall } from "../support/system-calls.ts";

const folder = mkdtempSync(join(tmpdir(), "camem-spill-"));
const allocator = CaMemAllocator.getInstance({ spillDir: folder, hostBudget: 0 });

/** One on each device, so that there are two spill files. */
const buffers = ["weights", "buffers"].map((tag, device) => {
  const content = pattern(3 * MiB, device);
  const buffer = allocator.malloc(content.length, { tag, device });
  buffer.write(content);
  return { buffer, content };
});

function assertAwakeWithContent(): void {
  assert.equal(allocator.isSleeping, false);
  for (const { buffer, content } of buffers) assert.equal(Buffer.compare(buffer.read(), content), 0);
}

function limitFileSize(sizeBytes: number): void {
  const { setrlimit } = dlopen("libc.so.6", { setrlimit: { args: ["i32", "ptr"], returns: "i32" } }).symbols;
  const fileSize = 1;
  const unlimited = 2n ** 64n - 1n;
  assert.equal(setrlimit(fileSize, new BigUint64Array([BigInt(sizeBytes), unlimited])), 0);
}

/** The descriptors of spill files, lowest first. */
function spillFiles(): number[] {
  const descriptors = readdirSync("/proc/self/fd").map(Number);
  return descriptors.filter((descriptor) => linkOf(descriptor).startsWith(folder)).sort((a, b) => a - b);
}

function linkOf(descriptor: number): string {
  try {
    return readlinkSync(`/proc/self/fd/${descriptor}`);
  } catch {
    return ""; // that of the listing itself
  }
}

/** Asserts that a sleep with this fault leaves all memory awake and no file open. */
async function assertSleepRejected(failing: FailingCall, message: RegExp): Promise<CamemError> {
  failSystemCall(failing);
  const error = await failureOf(() => allocator.sleep());
  assert.equal(error.code, "FILE_FAILED");
  assert.equal(error.call, failing.call.replace("64", ""));
  assert.match(error.message, message);
  assert.match(error.message, /nothing has changed/);
  assertAwakeWithContent();
  const { budget: _, ...usage } = allocator.hostUsage();
  assert.deepEqual(usage, {
    pageLockedBytes: 0,
    freeBytes: 0,
    preparedBytes: 0,
    stagingBytes: 0,
    pageableBytes: 0,
  });
  assert.deepEqual(spillFiles(), []);
  return error;
}

const scenarios: Record<string, () => Promise<unknown>> = {
  "disk full": async () => {
    const lengthArgument = 3;
    await assertSleepRejected(
      { call: "fallocate", errno: errno.noSpace, where: [lengthArgument, 4 * MiB] },
      /the disk is full/,
    );
    const small = allocator.malloc(MiB, { tag: "adapter" });
    small.fill(7);
    await allocator.sleep({ tags: ["adapter"], offloadTags: ["adapter"] });
    await allocator.wakeUp();
    assert.equal(small.read(MiB - 1)[0], 7);
  },
  "larger than files may be": async () => {
    limitFileSize(3 * MiB);
    const error = await failureOf(() => allocator.sleep());
    assert.equal(error.code, "FILE_FAILED");
    assert.match(error.message, /ulimit -f.*nothing has changed/);
    assertAwakeWithContent();
    limitFileSize(4 * MiB);
    await allocator.sleep();
    await allocator.wakeUp();
    assertAwakeWithContent();
  },
  "disk full while writing": () =>
    assertSleepRejected({ call: "pwrite64", errno: errno.noSpace }, /the disk is full/),
  "flush fails": () => assertSleepRejected({ call: "fdatasync", errno: errno.io }, /reports an error/),
  "flush of the first file fails": async () => {
    // The kernel assigns the lowest free descriptor, so the next sleep gets the same one.
    await allocator.sleep();
    const [first, second] = spillFiles();
    assert(first !== undefined && second !== undefined);
    await allocator.wakeUp();
    await assertSleepRejected({ call: "fdatasync", errno: errno.io, where: [0, first] }, /reports an error/);
  },
  killed: async () => {
    await allocator.sleep();
    process.stdout.write(`${folder}\n`);
    process.kill(process.pid, "SIGKILL");
    await Bun.sleep(60_000);
  },
  "reading fails": async () => {
    await allocator.sleep();
    failSystemCall({ call: "pread64", errno: errno.io });
    const error = await failureOf(() => allocator.wakeUp());
    assert.equal(error.code, "FILE_FAILED");
    assert.equal(error.call, "pread");
    assert.deepEqual(
      buffers.map(({ buffer }) => buffer.state),
      ["offloaded", "offloaded"],
    );
    assert.equal(accounting().physicalBytes, 0);
  },
};

const scenario = scenarios[process.argv[2] ?? ""];
if (scenario === undefined) throw new Error(`there is no scenario ${process.argv[2]}`);
try {
  await scenario();
  assert.deepEqual(readdirSync(folder), []);
  await allocator.close();
  assert.deepEqual(accounting(), nothingHeld);
} finally {
  rmSync(folder, { recursive: true });
}
