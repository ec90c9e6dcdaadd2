/** Loads beside whatever else happens to their memory, their files and their Worker. */

import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readlinkSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, loadSafetensors } from "camem";
import { checkpointOf } from "../support/checkpoint.ts";
import { callCount, failureOf, MiB, onEmulator, setFaults } from "../support/device.ts";
import { evaluate } from "../support/program.ts";

let allocator: CaMemAllocator;
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "camem-load-races-"));
});

afterAll(() => rmSync(folder, { recursive: true }));

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await allocator.close();
});

const bytes = (sizeMiB: number, value: number) => new Uint8Array(sizeMiB * MiB).fill(value);

function write(name: string, tensors: Readonly<Record<string, Uint8Array>>): string {
  const path = join(folder, name);
  writeFileSync(path, checkpointOf(tensors));
  return path;
}

/** Runs a program where copies take time, and returns what it prints. */
function run(body: string, link: string): Promise<unknown> {
  const program = `
    import { writeFileSync } from "node:fs";
    import { CaMemAllocator, loadSafetensors } from "camem";
    import { checkpointOf } from "./test/support/checkpoint.ts";
    import { callCount } from "./test/support/device.ts";
    const allocator = CaMemAllocator.getInstance();
    const bytes = (sizeMiB, value) => new Uint8Array(sizeMiB * 2 ** 20).fill(value);
    const path = ${JSON.stringify(join(folder, "timed.safetensors"))};
    const print = (value) => console.log(JSON.stringify(value));
    const outcome = (promise) => promise.then(() => "resolved", (error) => error.code);
    ${body}
    await allocator.close();`;
  return evaluate(program, link);
}

test.skipIf(!onEmulator)(
  "a load does not write memory that a wake-up still moves, which may fail",
  async () => {
    const found = await run(
      `
    const content = (value) => checkpointOf({ y: bytes(32, value), x: bytes(4, value), z: bytes(48, value) });
    for (const tag of ["x", "y", "z", "other"]) allocator.defineTag(tag, { 1: "offload" });
    writeFileSync(path, content(1));
    const into = await loadSafetensors(path, { allocator, tags: { x: "x", y: "y", z: "z" } });
    writeFileSync(path, content(2));
    const x = into.get("x").buffer;
    const other = allocator.malloc(320 * 2 ** 20, { tag: "other" });
    await allocator.sleep({ tags: ["other"] });
    const before = callCount("aclrtMemcpy");
    let hasEnded = false;
    const load = outcome(loadSafetensors(path, { allocator, into })).finally(() => (hasEnded = true));
    while (callCount("aclrtMemcpy") === before) await Bun.sleep(0);
    await allocator.sleep({ tags: ["x"] });
    const controller = new AbortController();
    const wake = allocator.wakeUp({ order: [x, other], signal: controller.signal });
    const woken = outcome(wake);
    await wake.ready(x);
    for (let ms = 0; ms < 1000 && !hasEnded && x.read(0, 1)[0] === 1; ms++) await Bun.sleep(1);
    controller.abort();
    await woken;
    const loaded = await load;
    await allocator.wakeUp();
    const found = [...into.values()].map(({ buffer }) => buffer.read(buffer.sizeBytes - 1, 1)[0]);
    print({ loaded, isWhole: found.every((value) => value === 2) });`,
      "h2d=256MiB/s",
    );
    // Whichever was faster.
    const { loaded, isWhole } = found as { loaded: string; isWhole: boolean };
    expect(loaded).toBeOneOf(["resolved", "BUFFER_MOVING", "BUFFER_ASLEEP"]);
    if (loaded === "resolved") expect(isWhole).toBe(true);
  },
);

test.skipIf(!onEmulator)(
  "a load keeps the memory of a tensor that is freed meanwhile, and rejects",
  async () => {
    const found = await run(
      `
    writeFileSync(path, checkpointOf({ a: bytes(64, 1), b: bytes(16, 2), c: bytes(16, 3) }));
    const into = await loadSafetensors(path, { allocator });
    const before = callCount("aclrtMemcpy");
    const load = outcome(loadSafetensors(path, { allocator, into }));
    while (callCount("aclrtMemcpy") === before) await Bun.sleep(0);
    into.get("b").buffer.free();
    const other = allocator.memoryPool("weights").malloc(16 * 2 ** 20);
    other.fill(77);
    const isElsewhere = other.ptr !== into.get("b").buffer.ptr;
    const loaded = await load;
    const first = other.read(0, 1)[0];
    for (const { buffer } of into.values()) if (buffer.state !== "freed") buffer.free();
    other.free();
    print({ isElsewhere, loaded, first, left: allocator.getCurrentUsage() });`,
      "h2d=512MiB/s",
    );
    expect(found).toEqual({ isElsewhere: true, loaded: "BUFFER_FREED", first: 77, left: 0 });
  },
);

test.skipIf(!onEmulator)("a load ends soon after any of its threads has failed", async () => {
  const path = write("large.safetensors", { tensor: bytes(128, 1) });
  for (let call = 1; call <= 6; call++) {
    setFaults(`aclrtMemcpy:${call}=507899`);
    expect((await failureOf(() => loadSafetensors(path, { allocator }))).code).toBe("ACL_CALL_FAILED");
    expect(callCount("aclrtMemcpy")).toBeLessThan(call + 8);
  }
});

test.skipIf(!onEmulator)(
  "a load notices that its file is written to, and names the file of an index",
  async () => {
    const content = { tensor: bytes(192, 1) };
    // Beforehand: a load takes less time than that.
    const file = checkpointOf(content);
    const index = join(folder, "shard.json");
    writeFileSync(index, JSON.stringify({ weight_map: { tensor: "shard" } }));
    const loadWhile = async (change: (path: string) => void) => {
      for (let attempt = 0; attempt < 20; attempt++) {
        const path = join(folder, "shard");
        writeFileSync(path, file);
        setFaults("");
        let hasEnded = false;
        const load = loadSafetensors(index, { allocator }).finally(() => {
          hasEnded = true;
        });
        load.catch(() => undefined);
        while (!hasEnded && callCount("aclrtMemcpy") === 0) await new Promise(setImmediate);
        change(path);
        const tensors = await load.catch((error) => error);
        if (tensors instanceof Error) return tensors;
        for (const { buffer } of tensors.values()) buffer.free();
      }
      throw new Error("the load was faster than the change");
    };
    expect(await loadWhile((path) => writeFileSync(path, file))).toMatchObject({
      code: expect.stringMatching(/FILE_CHANGED|SAFETENSORS_INVALID/),
      message: expect.stringContaining(join(folder, "shard:")),
    });
    expect(await loadWhile((path) => truncateSync(path, MiB))).toMatchObject({
      code: "SAFETENSORS_INVALID",
      message: expect.stringContaining(`${join(folder, "shard")}: the file ends while it is being read`),
    });
    expect(allocator.getCurrentUsage()).toBe(0);
  },
);

const worker = () =>
  new Worker(new URL("load-worker.ts", import.meta.url), { env: process.env as Record<string, string> });
const answerOf = (of: Worker) =>
  new Promise<string>((resolve) =>
    of.addEventListener("message", ({ data }) => resolve(data), { once: true }),
  );

test.skipIf(!onEmulator)("close() in a Worker ends its load and frees what that has allocated", async () => {
  allocator.malloc(1, { tag: "sleep_persistent" });
  const path = write("worker.safetensors", { tensor: bytes(256, 1) });
  const own = worker();
  const answer = answerOf(own);
  own.postMessage({ path, closes: true });
  expect(await answer).toBe(
    "CLOSED: the allocator is being closed; await its close(), then call CaMemAllocator.getInstance()",
  );
  own.terminate();
  expect(allocator.usage()["weights"]?.mappedBytes ?? 0).toBe(0);
});

test.skipIf(!onEmulator)("a Worker that is terminated during a load leaves no file open", async () => {
  allocator.malloc(1, { tag: "sleep_persistent" });
  const path = write("terminated.safetensors", { tensor: bytes(256, 1) });
  const opened = () =>
    readdirSync("/proc/self/fd").filter((name) => {
      try {
        return readlinkSync(`/proc/self/fd/${name}`) === path;
      } catch {
        return false;
      }
    }).length;
  const own = worker();
  const answer = answerOf(own);
  own.postMessage({ path, closes: false });
  await answer;
  const ended = new Promise((resolve) => own.addEventListener("close", resolve));
  own.terminate();
  await ended;
  const small = write("small.safetensors", { tensor: bytes(1, 1) });
  // Each load lets go of what ended Workers have left.
  while (opened() > 0) await loadSafetensors(small, { allocator });
});
