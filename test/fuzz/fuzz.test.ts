/** Compares the shipped binary with a naive model over fixed seeds; `bun run fuzz` runs random ones. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { onEmulator } from "../support/device.ts";

const main = join(import.meta.dir, "main.ts");

/** Runs in its own process, because the emulator reads the size of its memory at the start. */
async function fuzz(...args: string[]): Promise<{ exitCode: number; output: string }> {
  const child = Bun.spawn([process.execPath, main, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const [exitCode, output] = await Promise.all([child.exited, new Response(child.stdout).text()]);
  return { exitCode, output };
}

test.skipIf(!onEmulator)(
  "allocator agrees with the model after every event",
  async () => {
    const { exitCode, output } = await fuzz("--seed", "2", "--seeds", "4", "--events", "1200");
    if (exitCode !== 0) console.log(output);
    expect(exitCode).toBe(0);
    expect(output).toContain("seeds: 4, events: 4800");
    console.log(output.trimEnd().split("\n").at(-1));
  },
  60_000,
);

test
  .skipIf(!onEmulator)
  .each([
    "forgets that buffers are kept at level 2",
    "forgets a byte",
    "forgets that immutable content has a backup",
  ])(
  "fuzz reports a model that %s, with the seed and the command that repeats it",
  async (mistake) => {
    const { exitCode, output } = await fuzz("--seed", "1", "--events", "1000", "--mistake", mistake);
    expect(exitCode).toBe(1);
    const [, event] = /^DIVERGENCE with seed 1 at event (\d+): \S/m.exec(output) ?? [];
    expect(output).toContain(`repeat with: bun run fuzz --seed 1 --events ${event} --mistake "${mistake}"`);
    // An abort can have another outcome in a repetition, so the mistake may show later.
    let again = "";
    for (
      let repetition = 0;
      repetition < 5 && !again.includes("DIVERGENCE with seed 1 at event ");
      repetition++
    )
      again = (await fuzz("--seed", "1", "--events", String(event), "--mistake", mistake)).output;
    expect(again).toContain("DIVERGENCE with seed 1 at event ");
  },
  60_000,
);
