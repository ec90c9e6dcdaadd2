/** No file and no public name of the Zig sources is unused. For TypeScript `knip` checks the same. */

import { expect, test } from "bun:test";
import { reachable } from "./graph.ts";
import { sources, zig } from "./sources.ts";
import { fileGraph, publicNames } from "./zig-files.ts";

const files = sources(...zig);

/** Files that build.zig names. */
function buildRoots(): string[] {
  const build = files.find(({ path }) => path === "shim/build.zig");
  const named = [...(build?.text ?? "").matchAll(/"([\w/.]+\.zig)"/g)];
  return named.map(([, path]) => `shim/${path}`);
}

test("every Zig file is imported, or built by build.zig", () => {
  const roots = buildRoots();
  const used = reachable(fileGraph(files), ...roots);
  const unused = files
    .map(({ path }) => path)
    .filter((path) => path !== "shim/build.zig" && !roots.includes(path) && !used.has(path));
  expect(unused.map((path) => `${path}: nothing imports it: delete it`)).toEqual([]);
});

/** Declarations that Zig's standard library and compiler look for. */
const wellKnown = ["main", "build", "format", "panic", "std_options"];

/**
 * Files whose public names need no other user: `bindings.zig` and `libcamem.zig` read the ABI by reflection, `emulator.zig` and
 * `exports.zig` export calls by reflection, and AscendCL's enumerations are complete.
 */
const readByReflection = /^shim\/(src\/(abi|acl|remote)|(emulator|preload)\/calls\/\w+)\.zig$/;

test("every public name of a Zig file is used in another file", () => {
  const words = new Map(files.map(({ path, text }) => [path, new Set(text.match(/\w+/g))]));
  const isUsed = (name: string, path: string) =>
    [...words].some(([other, own]) => other !== path && own.has(name));
  const checked = files.filter(({ path }) => !readByReflection.test(path));
  const breaks = checked.flatMap((file) =>
    publicNames(file)
      .filter((name) => !wellKnown.includes(name) && !isUsed(name, file.path))
      .map((name) => `${file.path}: nothing uses "${name}" from outside: drop "pub", or delete it`),
  );
  expect(breaks).toEqual([]);
});
