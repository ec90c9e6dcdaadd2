/** Calls that the sources never make. */

import { expect, test } from "bun:test";
import { lineAt, programs, type Source, sources } from "./sources.ts";

/** A message for each match, with its line and what to do instead. */
function matches(files: readonly Source[], pattern: RegExp, remedy: string): string[] {
  return files.flatMap(({ path, text }) =>
    [...text.matchAll(pattern)].map(
      (match) => `${path}:${lineAt(text, match.index)}: ${match[0]}: ${remedy}`,
    ),
  );
}

test("only src/ffi knows bun:ffi", () => {
  const users = sources("src/**/*.ts").filter(({ text }) => text.includes('"bun:ffi"'));
  expect(users.length).toBeGreaterThan(0);
  const breaks = users.filter(({ path }) => !path.startsWith("src/ffi/"));
  expect(breaks.map(({ path }) => `${path} names bun:ffi: call the library through src/ffi`)).toEqual([]);
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
