/** What TypeScript modules import, and how long their functions are. */

import { dirname, join } from "node:path";
import { type CallExpression, type Node, type Program, parseSync, Visitor } from "oxc-parser";
import type { Graph } from "./graph.ts";
import { lineAt, type Source } from "./sources.ts";

const publicModules: Readonly<Record<string, string>> = {
  camem: "src/index.ts",
  "camem/server": "src/server/index.ts",
  "camem/metrics": "src/metrics/index.ts",
};

const programs = new Map<string, Program>();

/** Parses each file once, because several rules read it. */
function parse({ path, text }: Source): Program {
  const parsed = programs.get(path);
  if (parsed !== undefined) return parsed;
  const { program, errors } = parseSync(path, text);
  if (errors[0] !== undefined) throw new Error(`${path} does not parse: ${errors[0].message}`);
  programs.set(path, program);
  return program;
}

/** The value of a string literal; undefined for a specifier that is computed. */
function literal(node: Node | null): string | undefined {
  return node?.type === "Literal" && typeof node.value === "string" ? node.value : undefined;
}

/**
 * Specifiers of imports, re-exports, dynamic imports and `import("…")` types; undefined where one is
 * computed.
 */
export function specifiersOf(source: Source): (string | undefined)[] {
  const found: (string | undefined)[] = [];
  new Visitor({
    ImportDeclaration: (node) => void found.push(literal(node.source)),
    ExportAllDeclaration: (node) => void found.push(literal(node.source)),
    ExportNamedDeclaration: (node) => void (node.source && found.push(literal(node.source))),
    ImportExpression: (node) => void found.push(literal(node.source)),
    TSImportType: (node) => void found.push(literal(node.source)),
  }).visit(parse(source));
  return found;
}

const runtimeModules = /^(bun|deno|jsr):/;
const runtimeMeta = new Set(["dir", "file", "path", "main"]);

/** What only one JavaScript runtime has: its global, its modules, its properties of `import.meta`. */
export function runtimeNames(source: Source): string[] {
  const found = specifiersOf(source).filter((specifier) => runtimeModules.test(specifier ?? ""));
  new Visitor({
    Identifier: ({ name }) => void (/^(Bun|Deno)$/.test(name) && found.push(name)),
    MemberExpression: ({ object, property }) => {
      if (object.type !== "MetaProperty" || property.type !== "Identifier") return;
      if (runtimeMeta.has(property.name)) found.push(`import.meta.${property.name}`);
    },
  }).visit(parse(source));
  return found.map(String);
}

/** The file of this project that a specifier names; undefined for a package. */
export function resolve(importer: string, specifier: string): string | undefined {
  if (specifier.startsWith(".")) return join(dirname(importer), specifier);
  return publicModules[specifier];
}

export function moduleGraph(files: readonly Source[]): Graph {
  return new Map(
    files.map((source) => {
      const specifiers = specifiersOf(source).filter((specifier) => specifier !== undefined);
      const imported = specifiers.map((specifier) => resolve(source.path, specifier));
      return [source.path, new Set(imported.filter((path) => path !== undefined))];
    }),
  );
}

/** True for `describe(…)`, `describe.skip(…)` and `describe.each(…)(…)`. */
function isDescribe({ callee }: CallExpression): boolean {
  if (callee.type === "MemberExpression")
    return callee.object.type === "Identifier" && callee.object.name === "describe";
  if (callee.type === "CallExpression") return isDescribe(callee);
  return callee.type === "Identifier" && callee.name === "describe";
}

export interface FunctionLength {
  readonly line: number;
  readonly lines: number;
}

/** Every function but the callbacks of `describe`, which only group tests. */
export function functionLengths(source: Source): FunctionLength[] {
  const groups = new Set<number>();
  const found: FunctionLength[] = [];
  const measure = ({ start, end }: { readonly start: number; readonly end: number }) => {
    if (groups.has(start)) return;
    const line = lineAt(source.text, start);
    found.push({ line, lines: lineAt(source.text, end) - line + 1 });
  };
  new Visitor({
    CallExpression: (node) => {
      if (isDescribe(node)) for (const argument of node.arguments) groups.add(argument.start);
    },
    ArrowFunctionExpression: measure,
    FunctionDeclaration: measure,
    FunctionExpression: measure,
  }).visit(parse(source));
  return found;
}

/** Properties of schemas, `name: optional(…)` or `name: required(…)`, without a documentation comment right before them. */
export function uncommentedOptions(source: Source): { readonly name: string; readonly start: number }[] {
  const found: { name: string; start: number }[] = [];
  new Visitor({
    Property: ({ key, value, start }) => {
      if (key.type !== "Identifier" || value.type !== "CallExpression") return;
      if (value.callee.type !== "Identifier" || !/^(optional|required)$/.test(value.callee.name)) return;
      if (!/\/\*\*(?:(?!\*\/)[\s\S])*\*\/\s*$/.test(source.text.slice(0, start)))
        found.push({ name: key.name, start });
    },
  }).visit(parse(source));
  return found;
}
