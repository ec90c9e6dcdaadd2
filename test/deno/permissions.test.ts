/** The errors of a program on Deno that lacks a permission. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { denoPath } from "../../scripts/deno-path.ts";

const root = join(import.meta.dirname, "../..");
const checkpoint = join(root, "examples/tiny-llama/model/model.safetensors");

const program = `
import { CaMemAllocator, CamemError, loadSafetensors } from ${JSON.stringify(join(root, "src/index.ts"))};
try {
  const allocator = CaMemAllocator.getInstance({ backend: "emulator" });
  const weights = await loadSafetensors(${JSON.stringify(checkpoint)}, { allocator, tag: "weights" });
  await allocator.sleep();
  await allocator.wakeUp();
  console.log(weights.size > 0);
  await allocator.close();
} catch (error) {
  if (!(error instanceof CamemError)) throw error;
  console.log(error.code, error.message);
}`;

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "camem-deno-"));
  writeFileSync(join(folder, "main.ts"), program);
});

afterAll(() => rmSync(folder, { recursive: true }));

function run(...flags: string[]): string {
  const config = join(root, "deno.json");
  const command = [denoPath, "run", "--no-prompt", `--config=${config}`, ...flags, join(folder, "main.ts")];
  const { stdout, stderr } = Bun.spawnSync(command, { env: { ...process.env, NO_COLOR: "1" } });
  return `${stdout}${stderr}`;
}

const all = ["--allow-env", "--allow-ffi", "--allow-read"];

test("loadSafetensors(), sleep() and wakeUp() run on Deno with the documented permissions", () => {
  expect(run(...all)).toBe("true\n");
});

test.each(all)("getInstance() on Deno names %s where the program lacks it", (missing) => {
  const output = run(...all.filter((flag) => flag !== missing));
  expect(output).toStartWith("PERMISSION_MISSING ");
  expect(output).toContain(missing);
});

test("loadSafetensors() on Deno names --allow-read where the program may not read the checkpoint", () => {
  const output = run("--allow-env", "--allow-ffi", `--allow-read=${join(root, "native")}`);
  expect(output).toStartWith("PERMISSION_MISSING ");
  expect(output).toContain("--allow-read");
});
