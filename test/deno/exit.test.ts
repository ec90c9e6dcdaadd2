/** Programs on Deno that end without closing the allocator. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { denoPath } from "../../scripts/deno-path.ts";

const root = join(import.meta.dir, "../..");

const program = `
  import { CaMemAllocator } from "camem";
  CaMemAllocator.getInstance({ backend: "emulator" }).memGetInfo();
  console.log("made");`;

test("a program ends well although the threads of the native library still run", async () => {
  // Side by side: on a busy machine the threads are slower than the end of the program.
  const ends = Array.from({ length: 12 }, async () => {
    const child = Bun.spawn([denoPath, "eval", "--quiet", program], {
      cwd: root,
      stdout: "pipe",
      stderr: "pipe",
    });
    const [stdout, exitCode] = await Promise.all([new Response(child.stdout).text(), child.exited]);
    return `${stdout.trim()} ${exitCode} ${child.signalCode}`;
  });
  expect(new Set(await Promise.all(ends))).toEqual(new Set(["made 0 null"]));
});
