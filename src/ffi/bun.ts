import type { FunctionsOf, Runtime, SymbolTable } from "./runtime.ts";

/** The part of Bun's global that camem uses. */
interface Global {
  readonly main: string;
  readonly embeddedFiles: readonly unknown[];
}

interface Ffi {
  dlopen<Table extends SymbolTable>(path: string, table: Table): { readonly symbols: FunctionsOf<Table> };
}

const global = () => (globalThis as unknown as { readonly Bun: Global }).Bun;

/** Bun's types have the names of the table. Not an import: another runtime would refuse to load this module. */
export const bun: Runtime = {
  program: () => global().main,
  isCompiled: () => global().embeddedFiles.length > 0,
  open: (path, table) => (process.getBuiltinModule("bun:ffi") as Ffi).dlopen(path, table).symbols,
};
