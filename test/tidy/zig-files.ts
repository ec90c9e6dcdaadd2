/**
 * What Zig files import and declare, and how long their functions are, read line by line: `zig fmt` keeps the
 * layout.
 */

import { dirname, join } from "node:path";
import type { Graph } from "./graph.ts";
import type { FunctionLength } from "./modules.ts";
import type { Source } from "./sources.ts";

interface Block {
  readonly first: string;
  readonly line: number;
  readonly lines: number;
}

const functionStart = /^\s*(?:pub |export |inline |noinline )*fn /;
const testStart = /^test\b.*\{$/;

/** Blocks whose first line matches. A block ends with the first `}` at the indentation of its first line. */
function blocks(text: string, start: RegExp): Block[] {
  const all = text.split("\n");
  return all.flatMap((first, index): Block[] => {
    if (!start.test(first)) return [];
    const line = index + 1;
    if (/[};]$/.test(first)) return [{ first, line, lines: 1 }];
    const closing = `${" ".repeat(first.search(/\S/))}}`;
    const lines = all.slice(index).findIndex((other) => other.startsWith(closing)) + 1;
    return [{ first, line, lines }];
  });
}

/** Every function and test, except functions that return a type: they are containers. */
export function functionLengths({ text }: Source): FunctionLength[] {
  const functions = blocks(text, functionStart).filter(({ first }) => !/\btype \{$/.test(first));
  return [...functions, ...blocks(text, testStart)];
}

/** The file without its test blocks: a test may import a file that imports the tested one. */
export function withoutTests({ path, text }: Source): Source {
  const lines = text.split("\n");
  for (const block of blocks(text, testStart)) lines.fill("", block.line - 1, block.line - 1 + block.lines);
  return { path, text: lines.join("\n") };
}

/** Names of imported files and modules, those of test blocks included. */
export function importsOf({ text }: Source): string[] {
  return [...text.matchAll(/@import\("([^"]+)"\)/g)].map(([, name = ""]) => name);
}

/** Imports between files, those of test blocks included. */
export function fileGraph(files: readonly Source[]): Graph {
  return new Map(
    files.map((source) => {
      const names = importsOf(source).filter((name) => name.endsWith(".zig"));
      return [source.path, new Set(names.map((name) => join(dirname(source.path), name)))];
    }),
  );
}

/** Names that a file declares as `pub`, without its exports to C. */
export function publicNames({ text }: Source): string[] {
  const declarations = text.matchAll(
    /^\s*pub (?:inline |noinline |extern (?:"c" )?)*(?:const|var|fn) (\w+)/gm,
  );
  return [...declarations].map(([, name = ""]) => name);
}
