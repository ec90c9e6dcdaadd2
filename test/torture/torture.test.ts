/** The library with failing AscendCL calls, allocations and threads; `bun run torture` has more seeds, verbs and builds. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onEmulator } from "../support/device.ts";
import { buildLibraries, type Libraries } from "./builds.ts";
import { type Ending, torture, tortureEach } from "./driver.ts";

const longMs = 120_000;
let folder = "";
let libraries: Libraries;

/** The failure as it is to be read by people; empty without one. */
const textOf = ({ failure }: Ending) =>
  failure ? [failure.what, ...failure.history, failure.words].join("\n") : "";

describe.skipIf(!onEmulator)("a process whose calls, allocations and threads fail", () => {
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "camem-torture-build-"));
    libraries = await buildLibraries("shipped", folder);
  }, longMs);

  afterAll(() => rmSync(folder, { recursive: true }));

  test.concurrent.each([7, 8, 9])(
    "lives, loses nothing and leaks nothing with seed %i",
    async (seed) => expect(textOf(await torture(libraries, { seed, steps: 50 }))).toBe(""),
    longMs,
  );

  test.concurrent(
    "lives when each allocation, thread and context call of malloc, free, sleep and close fails",
    async () => {
      const verbs = ["malloc", "free", "sleep at level 1", "close"];
      expect(textOf(await tortureEach(libraries, verbs))).toBe("");
    },
    longMs,
  );

  test.concurrent(
    "is found out when it dies",
    async () => {
      const { failure } = await torture(libraries, { seed: 1, steps: 25, mistake: "dies" });
      expect(failure?.what).toBe("killed by SIGABRT");
      expect(failure?.history.at(-1)).toMatch(/^20 /);
    },
    longMs,
  );

  test.concurrent(
    "is found out when it loses a byte",
    async () => {
      const { failure } = await torture(libraries, { seed: 1, steps: 25, mistake: "loses a byte" });
      expect(failure?.what).toMatch(/byte 0 is \d+, not \d+$/);
    },
    longMs,
  );
});
