/** Rules of style that can be checked are checked. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";

const root = join(import.meta.dir, "..");

function sources(...patterns: string[]): { path: string; text: string }[] {
  return patterns.flatMap((pattern) =>
    [...new Bun.Glob(pattern).scanSync(root)].map((path) => ({
      path,
      text: readFileSync(join(root, path), "utf8"),
    })),
  );
}

/** Higher layers may import lower ones, never the other way round. */
const layers = [
  ["index.ts", "cli.ts"],
  ["register.ts"],
  ["gauges.ts", "operations.ts"],
  ["snapshot.ts", "prom-client.ts"],
  ["http.ts", "inference.ts", "idle.ts", "model-pool.ts"],
  ["history.ts"],
  ["engine-group.ts", "pool-member.ts"],
  ["controller.ts"],
  ["engine-memory.ts"],
  ["page.ts"],
  ["engine-tags.ts", "controller-options.ts", "gate.ts", "event-stream.ts", "request-input.ts", "access.ts"],
  ["events.ts", "wait.ts", "durations.ts", "replies.ts"],
  ["clock.ts"],
  ["safetensors.ts"],
  ["safetensors-header.ts"],
  ["allocator.ts"],
  ["transitions.ts"],
  ["hooks.ts"],
  ["pool.ts", "execute.ts", "levels.ts", "config.ts", "preflight.ts"],
  ["table.ts"],
  ["buffer.ts", "plan.ts"],
  ["native.ts"],
  ["tags.ts"],
  ["struct.ts", "symbols.gen.ts", "free-list.ts", "turns.ts", "validate.ts", "sizes.ts"],
  ["errors.ts"],
];

function layerOf(path: string): number {
  const layer = layers.findIndex((names) => names.includes(basename(path)));
  if (layer < 0) throw new Error(`${path} is in no layer: add it to this test`);
  return layer;
}

test("imports in src point one way", () => {
  for (const { path, text } of sources("src/**/*.ts")) {
    for (const [, imported = ""] of text.matchAll(/from "(\.[^"]+\.ts)"/g))
      expect(layerOf(path) <= layerOf(imported), `${path} imports ${imported}`).toBe(true);
  }
});

test("the main entry point knows nothing of the server and of metrics", () => {
  for (const { path, text } of sources("src/*.ts", "src/ffi/*.ts"))
    expect(text, path).not.toMatch(/from "[^"]*(server|metrics)/);
});

test("camem/server needs no prom-client", () => {
  for (const { path, text } of sources("src/*.ts", "src/ffi/*.ts", "src/server/*.ts"))
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
