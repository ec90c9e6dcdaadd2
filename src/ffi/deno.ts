import type { FunctionsOf, Runtime, SymbolTable } from "./runtime.ts";

interface ForeignFunction {
  readonly parameters: readonly string[];
  readonly result: string;
}

/** The part of Deno's global that camem uses. */
interface Global {
  readonly mainModule: string;
  dlopen(path: string, functions: Readonly<Record<string, ForeignFunction>>): { readonly symbols: unknown };
}

const global = () => (globalThis as unknown as { readonly Deno: Global }).Deno;

/** A `pointer` of Deno is an object of its own; a `buffer` is an array or null. Other types have the names of the table. */
const parameterOf = (kind: string) => (kind === "ptr" ? "buffer" : kind);

function foreignFunctions(table: SymbolTable): Record<string, ForeignFunction> {
  const entries = Object.entries(table).map(([name, { args, returns }]) => {
    return [name, { parameters: args.map(parameterOf), result: returns }] as const;
  });
  return Object.fromEntries(entries);
}

export const deno: Runtime = {
  program: () => global().mainModule,
  isCompiled: () => false,
  open: <Table extends SymbolTable>(path: string, table: Table) =>
    global().dlopen(path, foreignFunctions(table)).symbols as FunctionsOf<Table>,
};
