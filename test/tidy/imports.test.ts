/** Imports point one way: by folder in src, and without cycles everywhere. */

import { expect, test } from "bun:test";
import { basename, dirname, join } from "node:path";
import { importCycles, reachable } from "./graph.ts";
import { moduleGraph, resolve, specifiersOf } from "./modules.ts";
import { programs, type Source, sources, typeScript, zig } from "./sources.ts";
import { fileGraph, importsOf, withoutTests } from "./zig-files.ts";

/**
 * Folders and files of `src`, lowest first. A module imports only from its own folder and from those before
 * it.
 */
const order = [
  "errors.ts",
  "async",
  "options",
  "ffi",
  "policy",
  "memory",
  "transition",
  "instance.ts",
  "allocator.ts",
  "remote",
  "checkpoint",
  "index.ts",
  "server/engine",
  "server/pool",
  "server/http",
  "server",
  "metrics",
  "process",
  "proxy",
  "run",
  "gateway",
  "cli",
];

/** The place of a file in the order; -1 for a file that has none. */
function rankOf(path: string): number {
  if (!path.startsWith("src/")) return -1;
  const folder = dirname(path).replace(/^src\/?/, "");
  return order.indexOf(folder === "" ? basename(path) : folder);
}

test("every folder of src has a place in the order of imports", () => {
  const paths = sources("src/**/*.ts").map(({ path }) => path);
  const missing = paths.filter((path) => rankOf(path) < 0);
  expect(missing.map((path) => `${path}: add its folder to the order in test/tidy/imports.test.ts`)).toEqual(
    [],
  );
});

test("src imports nothing from a folder above", () => {
  const breaks = sources("src/**/*.ts").flatMap((source) => {
    const imported = specifiersOf(source).flatMap((specifier) =>
      specifier === undefined ? [] : (resolve(source.path, specifier) ?? []),
    );
    const isAbove = (path: string) =>
      path.endsWith(".ts") && (rankOf(path) < 0 || rankOf(path) > rankOf(source.path));
    return imported
      .filter(isAbove)
      .map((path) => `${source.path} imports ${path}: move what it needs to a lower folder`);
  });
  expect(breaks).toEqual([]);
});

test("no specifier of a dynamic import is computed", () => {
  const computed = sources(...typeScript).filter((source) => specifiersOf(source).includes(undefined));
  expect(computed.map(({ path }) => `${path}: write the specifier as a string literal`)).toEqual([]);
});

test("TypeScript has no import cycle", () => {
  expect(importCycles(moduleGraph(sources(...typeScript)))).toEqual([]);
});

/**
 * Messages for what an entry point imports, directly or through others, from a folder that it must not need.
 */
function needs(entry: string, folder: RegExp): string[] {
  const reached = reachable(moduleGraph(sources("src/**/*.ts")), entry);
  return [...reached]
    .filter((path) => folder.test(path))
    .map((path) => `${entry} needs ${path}: users who import only ${entry} must not load it`);
}

test("camem needs nothing of the server and of metrics", () => {
  expect(needs("src/index.ts", /^src\/(server|metrics)\//)).toEqual([]);
});

test("camem/server needs nothing of metrics, and only metrics needs prom-client", () => {
  expect(needs("src/server/index.ts", /^src\/metrics\//)).toEqual([]);
  const users = sources("src/**/*.ts").filter((source) => specifiersOf(source).includes("prom-client"));
  const breaks = users.filter(({ path }) => !path.startsWith("src/metrics/"));
  expect(breaks.map(({ path }) => `${path} imports prom-client: only src/metrics may`)).toEqual([]);
});

test("only tests import from test", () => {
  const files = sources("{src,bench,examples,scripts}/**/*.ts");
  const breaks = [...moduleGraph(files)].flatMap(([path, imported]) =>
    [...imported]
      .filter((other) => other.startsWith("test/"))
      .map((other) => `${path} imports ${other}: move it out of test`),
  );
  expect(breaks).toEqual([]);
});

test("examples import only their own files, public modules and packages", () => {
  const breaks = sources("examples/**/*.ts").flatMap((source) =>
    specifiersOf(source)
      .filter((specifier) => specifier?.startsWith("."))
      .filter((specifier) => !resolve(source.path, specifier ?? "")?.startsWith("examples/"))
      .map((specifier) => `${source.path} imports ${specifier}: use camem, camem/server or camem/metrics`),
  );
  expect(breaks).toEqual([]);
});

test("Zig has no import cycle", () => {
  expect(importCycles(fileGraph(sources(...zig).map(withoutTests)))).toEqual([]);
});

/** Names of the files and modules that a Zig file imports, with files relative to the checkout. */
const zigImports = (source: Source) =>
  importsOf(source).map((name) => (name.endsWith(".zig") ? join(dirname(source.path), name) : name));

test("the emulator imports nothing of the shim but acl and c_function", () => {
  const isAllowed = (name: string) =>
    ["std", "builtin", "acl", "c_function"].includes(name) || name.startsWith("shim/emulator/");
  const breaks = sources("shim/emulator/**/*.zig").flatMap((source) =>
    zigImports(source)
      .filter((name) => !isAllowed(name))
      .map((name) => `${source.path} imports ${name}: the emulator is a library of its own, like AscendCL`),
  );
  expect(breaks).toEqual([]);
});

test("the shim imports nothing of the emulator, except in tests and test programs", () => {
  const breaks = sources("shim/src/**/*.zig")
    .filter(({ path }) => !path.endsWith("_test.zig") && !programs.includes(path))
    .flatMap((source) =>
      zigImports(source)
        .filter((name) => name === "emulator" || name.startsWith("shim/emulator/"))
        .map((name) => `${source.path} imports ${name}: call AscendCL through the table of acl.zig`),
    );
  expect(breaks).toEqual([]);
});
