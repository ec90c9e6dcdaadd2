/** Rules of style that can be checked are checked. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

const root = join(import.meta.dir, "..");

function sources(...patterns: string[]): { path: string; text: string }[] {
  return patterns.flatMap((pattern) =>
    [...new Bun.Glob(pattern).scanSync(root)].map((path) => ({
      path,
      text: readFileSync(join(root, path), "utf8"),
    })),
  );
}

/** Folders and files of `src`, lowest first. A module imports only from its own folder and from those before it. */
const order = [
  "errors.ts",
  "options",
  "async",
  "policy",
  "ffi",
  "memory",
  "transition",
  "allocator.ts",
  "checkpoint",
  "index.ts",
  "server/engine",
  "server/pool",
  "server/http",
  "server",
  "metrics",
  "cli",
];

function rankOf(path: string): number {
  const folder = dirname(path).replace(/^src\/?/, "");
  const rank = order.indexOf(folder === "" ? basename(path) : folder);
  if (rank < 0) throw new Error(`${path} has no rank: add its folder to this test`);
  return rank;
}

test("imports in src point one way", () => {
  for (const { path, text } of sources("src/**/*.ts")) {
    for (const [, imported = ""] of text.matchAll(/from "(\.[^"]+\.ts)"/g))
      expect(rankOf(path) >= rankOf(join(dirname(path), imported)), `${path} imports ${imported}`).toBe(true);
  }
});

test("the main entry point knows nothing of the server and of metrics", () => {
  for (const { path, text } of sources(
    "src/*.ts",
    "src/{options,async,policy,memory,transition,checkpoint,ffi}/*.ts",
  ))
    expect(text, path).not.toMatch(/from "[^"]*(server|metrics)/);
});

test("camem/server needs no prom-client", () => {
  for (const { path, text } of sources(
    "src/*.ts",
    "src/{options,async,policy,memory,transition,checkpoint,ffi}/*.ts",
    "src/server/**/*.ts",
  ))
    expect(text, path).not.toMatch(/"prom-client"|\/metrics\//);
});

test("only src/ffi knows bun:ffi", () => {
  const users = sources("src/**/*.ts").filter(({ text }) => text.includes("bun:ffi"));
  expect(users.every(({ path }) => path.startsWith("src/ffi/"))).toBe(true);
  expect(users.length).toBeGreaterThan(0);
});

test("no native-to-JavaScript callback exists", () => {
  for (const { path, text } of sources("src/**/*.ts", "examples/**/*.ts"))
    expect(text, path).not.toContain("JSCallback");
});

test("no error is caught and dropped in Zig", () => {
  for (const { path, text } of sources("shim/{src,emulator}/*.zig")) {
    expect(text, path).not.toMatch(/catch \{\s*\}/);
    expect(text, path).not.toContain("catch unreachable");
  }
});

test("the shim prints nothing and never ends the process", () => {
  for (const { path, text } of sources("shim/src/*.zig")) {
    if (/(bindings|stress)\.zig$/.test(path)) continue; // programs of their own, not in the library
    expect(text, path).not.toMatch(/std\.debug\.print|std\.log|process\.exit|@panic|std\.c\.abort/);
  }
});
