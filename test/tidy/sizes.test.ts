/** Files and functions stay short enough to be read in one go. */

import { expect, test } from "bun:test";
import { functionLengths as typeScriptFunctions } from "./modules.ts";
import { type Source, sources, typeScript, zig } from "./sources.ts";
import { functionLengths as zigFunctions } from "./zig-files.ts";

const maxFileLines = 500;
const maxFunctionLines = 70;
const maxZigColumns = 120;

const linesOf = ({ text }: Source) => text.split("\n").length - 1;

test(`files have at most ${maxFileLines} lines`, () => {
  const files = sources(...typeScript, ...zig, "{src,bench,test}/**/*.{c,h,css,html}");
  const breaks = files
    .filter((file) => linesOf(file) > maxFileLines && !file.path.endsWith(".gen.ts"))
    .map((file) => `${file.path} has ${linesOf(file)} lines: split it by concern`);
  expect(breaks).toEqual([]);
});

test(`functions have at most ${maxFunctionLines} lines`, () => {
  const breaks = sources(...typeScript, ...zig).flatMap((source) => {
    const functions = source.path.endsWith(".zig") ? zigFunctions(source) : typeScriptFunctions(source);
    return functions
      .filter(({ lines }) => lines > maxFunctionLines)
      .map(({ line, lines }) => `${source.path}:${line}: a function of ${lines} lines: split it`);
  });
  expect(breaks).toEqual([]);
});

test(`lines of Zig have at most ${maxZigColumns} columns`, () => {
  const breaks = sources(...zig).flatMap(({ path, text }) =>
    text.split("\n").flatMap((line, index) => {
      const columns = [...line].length;
      return columns > maxZigColumns ? [`${path}:${index + 1}: ${columns} columns: break the line`] : [];
    }),
  );
  expect(breaks).toEqual([]);
});
