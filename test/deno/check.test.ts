/** What Deno's own tools say of the entry points, and the demo. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { denoPath } from "../../scripts/deno-path.ts";

const root = join(import.meta.dirname, "../..");
const jsonOf = (name: string) => JSON.parse(readFileSync(join(root, name), "utf8"));

test("deno check accepts the entry points that deno.json exports", () => {
  const entries = Object.values<string>(jsonOf("deno.json").exports);
  const { exitCode, stderr } = Bun.spawnSync([denoPath, "check", "--quiet", ...entries], { cwd: root });
  expect([`${stderr}`, exitCode]).toEqual(["", 0]);
});

test("deno.json has the version and the entry points of package.json", () => {
  const { version, exports } = jsonOf("package.json");
  const sources = Object.entries<{ default?: string }>(exports).flatMap(([name, { default: path }]) =>
    path === undefined ? [] : [[name, path]],
  );
  expect(jsonOf("deno.json")).toMatchObject({ version, exports: Object.fromEntries(sources) });
});

test("deno task demo writes the same text after every sleep", () => {
  const env = { ...process.env, CAMEM_BACKEND: "emulator" };
  const { exitCode, stdout, stderr } = Bun.spawnSync([denoPath, "task", "demo"], { cwd: root, env });
  expect(exitCode, `${stderr}`).toBe(0);
  expect(`${stdout}`).toContain("All three texts are equal.");
});
