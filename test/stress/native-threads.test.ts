/** `my_malloc` and `my_free` from eight native threads while JavaScript sleeps and wakes. */

import { dlopen } from "bun:ffi";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator } from "camem";
import { zigPath } from "../../scripts/native.ts";
import { shimPath } from "../../src/ffi/index.ts";
import { granulesBetween, MiB, onEmulator, pattern, setFaults } from "../support/device.ts";
import { openPluggable } from "../support/pluggable.ts";

const threadCount = 8;
const cycles = Number(process.env["CAMEM_TEST_CYCLES"] ?? 40);
const longMs = 60_000 + cycles * 1000;
const folder = mkdtempSync(join(tmpdir(), "camem-threads-"));
const cString = (text: string) => Buffer.from(`${text}\0`);
let stress: ReturnType<typeof open>;
let allocator: CaMemAllocator;

function open(path: string) {
  return dlopen(path, {
    stress_start: { args: ["ptr", "ptr", "i32", "i32"], returns: "i32" },
    stress_allocations: { args: [], returns: "u64" },
    stress_stop: { args: ["ptr"], returns: "void" },
  }).symbols;
}

beforeAll(() => {
  const library = join(folder, "libstress.so");
  const source = join(import.meta.dir, "allocation_threads.c");
  const result = Bun.spawnSync([
    zigPath(),
    "cc",
    "-shared",
    "-fPIC",
    "-O1",
    "-Wall",
    "-Werror",
    "-pthread",
    source,
    "-o",
    library,
  ]);
  if (result.exitCode !== 0) throw new Error(result.stderr.toString());
  stress = open(library);
}, 60_000);

afterAll(() => rmSync(folder, { recursive: true }));

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
});

afterEach(() => allocator.close());

type Cycle = (cycle: number) => Promise<void>;

async function sleepAndWake(): Promise<void> {
  await allocator.sleep();
  await allocator.wakeUp();
}

async function runBeside(tag: string, verifyContent: boolean, run: Cycle = sleepAndWake) {
  const content = pattern(5 * MiB, 1);
  const weights = allocator.malloc(content.length, { tag: "weights" });
  weights.write(content);
  const totals = new BigUint64Array(4);
  await allocator.useMemoryPool(tag, async () => {
    const started = stress.stress_start(
      cString(shimPath),
      cString(allocator.backend.library),
      threadCount,
      Number(verifyContent),
    );
    expect(started).toBe(0);
    for (let cycle = 0; cycle < cycles; cycle++) {
      await run(cycle);
      expect(Buffer.compare(weights.read(), content)).toBe(0);
    }
    // Every thread makes progress even when the cycles are fast.
    const done = Number(stress.stress_allocations());
    while (Number(stress.stress_allocations()) < done + threadCount * 8) await Bun.sleep(1);
    stress.stress_stop(totals);
  });
  expect(Object.keys(allocator.usage())).toEqual(["weights"]);
  const [allocations = 0, nulls, mismatches, failedCopies] = [...totals].map(Number);
  return { allocations, nulls, mismatches, failedCopies };
}

describe("eight native threads during sleeps and wake-ups", () => {
  test(
    "my_malloc() and my_free() lose no byte of memory that no sleep touches",
    async () => {
      const totals = await runBeside("sleep_persistent", true);
      expect(totals).toMatchObject({ nulls: 0, mismatches: 0, failedCopies: 0 });
      expect(totals.allocations).toBeGreaterThan(threadCount * 8);
    },
    longMs,
  );

  test(
    "my_malloc() and my_free() leave nothing while memory of their tag sleeps",
    async () => {
      const { freeBytes } = allocator.memGetInfo();
      const totals = await runBeside("kv_cache", false);
      expect(totals).toMatchObject({ nulls: 0 });
      expect(granulesBetween(freeBytes - allocator.memGetInfo().freeBytes, 6 * MiB)).toBe(0);
    },
    longMs,
  );
});

test.skipIf(!onEmulator)(
  "a sleep or wake-up whose copies fail rejects, although frees on other threads wait for the device",
  async () => {
    let failures = 0;
    const totals = await runBeside("sleep_persistent", false, async () => {
      for (const verb of ["sleep", "wakeUp"] as const) {
        setFaults("aclrtMemcpyAsync.task:1=507000");
        await allocator[verb]().catch(() => failures++);
        setFaults("");
        await allocator[verb]();
      }
    });
    expect(failures).toBe(2 * cycles);
    expect(totals.nulls).toBe(0);
  },
  longMs,
);

describe("my_malloc and my_free", () => {
  const pluggable = openPluggable();

  test("my_malloc() returns null and my_free() does nothing when no memory can be allocated", async () => {
    for (const size of [0, -1, -(2 ** 40)]) expect(pluggable.malloc(size, 0)).toBe(0);
    for (const device of [-1, 99]) expect(pluggable.malloc(MiB, device)).toBe(0);
    expect(pluggable.malloc(2 ** 50, 0)).toBe(0);
    pluggable.free(0, 1, 0);
    pluggable.free(12_345, 1, 0);
    expect(allocator.usage()).toEqual({});
    await allocator.close();
    expect(pluggable.malloc(MiB, 0)).toBe(0);
    pluggable.free(12_345, 1, 0);
  });

  test("my_free() frees a sleeping allocation and its backup", async () => {
    const address = allocator.useMemoryPool("weights", () => pluggable.malloc(3 * MiB, 0));
    expect(address).toBeGreaterThan(0);
    await allocator.sleep();
    expect(allocator.usage()["weights"]).toMatchObject({ mappedBytes: 0, hostBytes: 4 * MiB });
    pluggable.free(address, 3 * MiB, 0);
    expect(allocator.usage()).toEqual({});
  });
});
