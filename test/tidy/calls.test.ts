/** Calls that the sources never make. */

import { expect, test } from "bun:test";
import { reachable } from "./graph.ts";
import { moduleGraph, runtimeNames } from "./modules.ts";
import { lineAt, programs, type Source, sources } from "./sources.ts";

/** A message for each match, with its line and what to do instead. */
function matches(files: readonly Source[], pattern: RegExp, remedy: string): string[] {
  return files.flatMap(({ path, text }) =>
    [...text.matchAll(pattern)].map(
      (match) => `${path}:${lineAt(text, match.index)}: ${match[0]}: ${remedy}`,
    ),
  );
}

test("only src/ffi knows the native interfaces of the runtimes", () => {
  const users = sources("src/**/*.ts").filter(({ text }) => /"bun:ffi"|\.dlopen\(/.test(text));
  expect(users.map(({ path }) => path)).toEqual(["src/ffi/bun.ts", "src/ffi/deno.ts"]);
});

test("the three entry points reach nothing that only one runtime has", () => {
  const files = sources("src/**/*.ts", "src/**/*.js");
  const graph = moduleGraph(files);
  const doors = ["src/ffi/bun.ts", "src/ffi/deno.ts"];
  const entries = ["src/index.ts", "src/server/index.ts", "src/metrics/index.ts"];
  const reached = reachable(graph, ...entries);
  const breaks = files
    .filter(({ path }) => reached.has(path) && !doors.includes(path))
    .flatMap((source) => runtimeNames(source).map((name) => `${source.path} names ${name}`));
  expect(breaks).toEqual([]);
  const text = 'import { $ } from "bun:x"; let a: Bun.B; Deno.c; import.meta.dir;';
  expect(runtimeNames({ path: "bad.ts", text }).toSorted()).toEqual([
    "Bun",
    "Deno",
    "bun:x",
    "import.meta.dir",
  ]);
});

test("no native-to-JavaScript callback exists", () => {
  const files = sources("{src,examples}/**/*.ts");
  expect(matches(files, /JSCallback/g, "write into shared memory, and let JavaScript read it")).toEqual([]);
});

test("no error is caught and dropped in Zig", () => {
  const files = sources("shim/{src,emulator}/**/*.zig");
  expect(matches(files, /catch \{\s*\}|catch unreachable/g, "return the error, or handle it")).toEqual([]);
});

test("the shim prints nothing and never ends the process", () => {
  const isLibrary = ({ path }: Source) => !path.endsWith("_test.zig") && !programs.includes(path);
  const files = sources("shim/src/**/*.zig").filter(isLibrary);
  const pattern = /std\.debug\.print|std\.log|process\.exit|@panic|std\.c\.abort/g;
  expect(matches(files, pattern, "return a status")).toEqual([]);
});

test("no test awaits expect().rejects or expect().resolves", () => {
  const files = sources("test/**/*.ts").filter(({ path }) => path !== "test/tidy/calls.test.ts");
  const remedy = "Bun can lose messages in it: use rejectionMessage() of test/support/rejection.ts, or await";
  expect(matches(files, /\)\.(rejects|resolves)\./g, remedy)).toEqual([]);
});
