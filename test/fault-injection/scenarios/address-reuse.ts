/** Scenarios in which a new buffer gets the address of an old one: the old buffer and its backups must not reach it. */

import assert from "node:assert/strict";
import { CaMemAllocator, type CamemErrorCode, type DeviceBuffer } from "camem";
import { assertNothingLeft, memory, setDelay, setFaults } from "../strict-runtime.ts";
import { assertContent, fill, mebibyte, pluggable, rejection, thrown } from "./buffers.ts";
import { settleMs } from "./faults.ts";

/** Waits until at most `reservations` are left. */
async function assertReleased(reservations: number): Promise<void> {
  for (let waitedMs = 0; memory().reservations > reservations; waitedMs++) {
    assert(waitedMs < settleMs, "an address is not released");
    await Bun.sleep(1);
  }
}

/** Asserts that a freed buffer refuses every access, although its address may be in use again. */
function assertFreed(buffer: DeviceBuffer, code: CamemErrorCode): void {
  const before = memory();
  const byte = new Uint8Array(1);
  assert.equal(buffer.state, "freed");
  const uses = [
    () => buffer.write(byte),
    () => buffer.read(0, 1),
    () => buffer.readInto(byte),
    () => buffer.fill(9),
  ];
  for (const use of uses) assert.equal(thrown(use).code, code);
  buffer[Symbol.dispose]();
  // What a plan still gives back may go meanwhile.
  for (const [kind, amount] of Object.entries(memory()))
    assert(amount <= before[kind as keyof typeof before], `${kind} grew from an access to a freed buffer`);
}

/** The calls of a free; when one fails, a later plan repeats it. */
const freeFaults = [
  { state: "mapped", call: "aclrtSynchronizeDeviceWithTimeout" },
  { state: "mapped", call: "aclrtUnmapMem" },
  { state: "mapped", call: "aclrtFreePhysical" },
  { state: "mapped", call: "aclrtReleaseMemAddress" },
  { state: "offloaded", call: "aclrtReleaseMemAddress" },
] as const;

/** A buffer with its own segment, and a buffer in a pool's segment. */
const allocations: Record<string, (allocator: CaMemAllocator) => DeviceBuffer> = {
  buffer: (allocator) => allocator.malloc(2 * mebibyte, { tag: "weights" }),
  "pool's buffer": (allocator) => allocator.memoryPool("weights").malloc(mebibyte),
};

const openForReuse = () => CaMemAllocator.getInstance({ poolSegment: "2MiB" });

/** The old buffer was freed by a call that failed. */
export async function reuseAfterFailedFree(): Promise<void> {
  const allocator = openForReuse();
  for (const [kind, allocate] of Object.entries(allocations)) {
    for (const { state, call } of freeFaults) {
      const when = `after ${call} failed for a ${kind} that was ${state}`;
      const old = fill(allocate(allocator));
      const neighbour = allocator.malloc(100, { tag: "kv_cache" });
      await allocator.sleep();
      const backup = allocator.backup("weights")[0];
      if (state === "mapped") await allocator.wakeUp();
      const before = memory().reservations;
      setFaults(`${call}:1=507899`);
      assert.equal(thrown(() => old.buffer.free()).call, call);
      setFaults();
      assert.equal(old.buffer.state, "freed", when);
      assert.equal(memory().reservations, before, when);
      await allocator[state === "mapped" ? "sleep" : "wakeUp"]();
      await assertReleased(before - 1);
      await allocator.wakeUp();

      const other = fill(allocate(allocator));
      assert.equal(other.ptr, old.ptr, `the address was not used again ${when}`);
      assertFreed(old.buffer, "BUFFER_FREED");
      await allocator.sleep();
      assertFreed(old.buffer, "BUFFER_FREED");
      assert(backup);
      assert.equal(thrown(() => backup.read(0, 1)).code, "BUFFER_FREED");
      const otherBackup = allocator.backup("weights")[0];
      assert(otherBackup);
      assert.equal(Buffer.compare(otherBackup.read(0, other.bytes.length), other.bytes), 0, when);
      // Repeating the free that failed succeeds: nothing is left to do.
      old.buffer.free();
      assert.equal(thrown(() => old.buffer.free()).code, "BUFFER_FREED");
      assert.equal(other.buffer.state, "offloaded", when);
      await allocator.wakeUp();
      assertFreed(old.buffer, "BUFFER_FREED");
      assertContent(other, when);
      other.buffer.free();
      neighbour.free();
      assert.equal(memory().reservations, 0, when);
    }
  }
  await allocator.close();
}

/** The old buffer was freed while a plan moved it. */
export async function reuseAfterFreeWhileMoving(): Promise<void> {
  const allocator = openForReuse();
  for (const [kind, allocate] of Object.entries(allocations)) {
    const old = allocate(allocator);
    setDelay(20);
    const sleeping = allocator.sleep();
    while (old.state !== "moving") await Bun.sleep(1);
    old.free();
    assertFreed(old, "BUFFER_FREED");
    await sleeping;
    setDelay(0);
    await assertReleased(0);
    const other = fill(allocate(allocator));
    assert.equal(other.ptr, old.ptr, `the address of the ${kind} was not used again`);
    assertFreed(old, "BUFFER_FREED");
    assert.equal(thrown(() => old.free()).code, "BUFFER_FREED");
    assertContent(other, `after the ${kind} at its address was freed while moving`);
    other.buffer.free();
  }
  await allocator.close();
}

/** The old buffer belongs to an allocator whose close failed; checked while it is half closed and after it is open again. */
export async function reuseAfterFailedClose(): Promise<void> {
  for (const [kind, allocate] of Object.entries(allocations)) {
    for (const call of [
      "aclrtUnmapMem",
      "aclrtReleaseMemAddress",
      "aclrtResetDevice",
      "aclFinalizeReference",
    ]) {
      const when = `for a ${kind} after ${call} failed in close()`;
      const first = openForReuse();
      const old = fill(allocate(first));
      await first.sleep();
      const backup = first.backup("weights")[0];
      await first.wakeUp();
      assert(backup);
      const assertOldRefused = () => {
        assertFreed(old.buffer, "CLOSED");
        assert.equal(thrown(() => old.buffer.free()).code, "CLOSED");
        assert.equal(thrown(() => backup.read(0, 1)).code, "CLOSED");
      };
      setFaults(`${call}:1=507899`);
      assert.equal((await rejection(first.close())).call, call);
      setFaults();
      assertOldRefused();
      if (memory().reservations === 0) {
        // A native engine can still allocate, and gets the address.
        const address = Number(pluggable.my_malloc(2 * mebibyte, 0, null));
        assert.equal(address, old.ptr, `the address was not used again ${when}`);
        assertOldRefused();
        pluggable.my_free(address, 2 * mebibyte, 0, null);
      }
      await first.close();
      const second = openForReuse();
      assertOldRefused();
      const other = fill(allocate(second));
      assert.equal(other.ptr, old.ptr, `the address was not used again ${when}`);
      assertOldRefused();
      assertContent(other, when);
      await second.sleep();
      assertOldRefused();
      await second.wakeUp();
      assertContent(other, when);
      await second.close();
      assertNothingLeft();
    }
  }
}
