/** What the host budget has no room for goes to files that nobody sees and that are gone with the process. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { onEmulator } from "./support/device.ts";

/** A disk fails below the whole process, so each of these is one of its own. */
test
  .skipIf(!onEmulator)
  .each([
    "disk full",
    "disk full while writing",
    "flush fails",
    "flush of the first file fails",
    "reading fails",
  ])("%s: a clean rejection, with the content where it was", async (name) => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "support/spill-process.ts"), name], {
    env: { ...process.env, CAMEM_EMULATOR_DEVICES: "2" },
    stdio: ["ignore", "inherit", "pipe"],
  });
  const [exitCode, stderr] = await Promise.all([child.exited, new Response(child.stderr).text()]);
  expect(stderr).toBe("");
  expect(exitCode).toBe(0);
});
