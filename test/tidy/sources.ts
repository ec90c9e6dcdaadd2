/** The sources that the rules read, and what a rule reports. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");

export interface Source {
  /** Relative to the checkout. */
  readonly path: string;
  readonly text: string;
}

/** The files that match at least one of the patterns, by path. */
export function sources(...patterns: readonly string[]): Source[] {
  const paths = new Set(patterns.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync(root)]));
  const own = [...paths].filter((path) => !/(^|\/)(node_modules|zig-out|\.zig-cache)\//.test(path));
  return own.sort().map((path) => ({ path, text: readFileSync(join(root, path), "utf8") }));
}

export const typeScript = ["{src,test,bench,examples,scripts}/**/*.ts", "src/**/*.js"] as const;
export const zig = ["shim/**/*.zig"] as const;

/** Zig programs of their own, which are in no library. */
export const programs = ["bindings", "control_program", "stress"].map((name) => `shim/src/${name}.zig`);

/** The number of the line that holds the character at `offset`. */
export function lineAt(text: string, offset: number): number {
  return text.slice(0, offset).split("\n").length;
}
