/** An allocator that nobody closed ends when the next test file or the next hot reload opens one. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const folder = mkdtempSync(join(tmpdir(), "camem-left-open-"));
const camem = JSON.stringify(join(root, "src/index.ts"));

const forgetful = `
import { expect, test } from "bun:test";
import { CaMemAllocator } from ${camem};
test("leaves memory asleep, a transition running, and a tag defined", async () => {
  const allocator = CaMemAllocator.getInstance({ backend: "emulator" });
  const weights = allocator.malloc(2 ** 22, { tag: "weights" });
  await allocator.sleep();
  void allocator.wakeUp().catch(({ code }) => (globalThis.leftCode = code));
  globalThis.left = { allocator, weights };
});`;

const careful = `
import { expect, test } from "bun:test";
import { CaMemAllocator } from ${camem};
test("finds nothing of it", async () => {
  const allocator = CaMemAllocator.getInstance({ backend: "emulator", verify: true });
  expect(allocator.usage()).toEqual({});
  expect(allocator.isSleeping).toBe(false);
  const { freeBytes, totalBytes } = allocator.memGetInfo();
  expect(freeBytes).toBe(totalBytes);
  if (globalThis.left !== undefined) {
    const { allocator: before, weights } = globalThis.left;
    expect(() => before.malloc(1)).toThrow("was left open, and closed by a hot reload or another test file");
    expect(weights.state).toBe("freed");
    await Bun.sleep(5);
    expect(["CLOSED", undefined]).toContain(globalThis.leftCode);
  }
  await allocator.close();
});`;

/** Loads a model, which the reload loads again, and serves it with an idle ladder. */
const hot = `
import { CaMemAllocator } from ${camem};
import { IdleSleep, SleepController } from ${JSON.stringify(join(root, "src/server/index.ts"))};
const allocator = CaMemAllocator.getInstance({ backend: "emulator" });
const weights = allocator.malloc(2 ** 22, { tag: "weights" });
const engine = new SleepController(allocator, { whenAsleep: "wake" });
new IdleSleep(engine, { ladder: [{ after: 20, level: 1 }] });
globalThis.engines = [...(globalThis.engines ?? []), engine];
const { freeBytes, totalBytes } = allocator.memGetInfo();
while (engine.status.state !== "asleep") await Bun.sleep(5);
console.log(JSON.stringify([totalBytes - freeBytes, allocator.usage().weights.segments, globalThis.engines.length]));`;

const environment = { ...process.env, CAMEM_BACKEND: "", CAMEM_ACL_LIBRARY: "", CAMEM_EMULATOR_RUNTIME: "0" };

beforeAll(async () => {
  await Bun.write(join(folder, "a.test.ts"), forgetful);
  await Bun.write(join(folder, "b.test.ts"), careful);
});

afterAll(() => rmSync(folder, { recursive: true }));

test.each([[], ["--isolate"]])(
  "getInstance() of the next file of bun test starts afresh (%p)",
  (...options) => {
    const { exitCode, stderr } = Bun.spawnSync([process.execPath, "test", ...options], {
      cwd: folder,
      env: environment,
    });
    expect(`${stderr}`).toContain("2 pass");
    expect(exitCode).toBe(0);
  },
);

test("getInstance() after a reload of bun --hot has none of the memory from before", async () => {
  const program = join(folder, "hot.ts");
  await Bun.write(program, hot);
  const child = Bun.spawn([process.execPath, "--hot", program], { cwd: folder, env: environment });
  const lines = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let reload = 1; reload <= 4; reload++) {
      const { value = "" } = await lines.read();
      expect(JSON.parse(value)).toEqual([2 ** 22, 1, reload]);
      await Bun.write(program, `${hot}\n// ${reload}`);
    }
  } finally {
    child.kill();
    await child.exited;
  }
});
