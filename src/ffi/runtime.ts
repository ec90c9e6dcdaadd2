/** What camem needs of a JavaScript runtime. */

/** A C type: a pointer, passed as the array that it points to or null, or a number below 2^53. */
type Kind = "ptr" | "u64" | "u32" | "i32";

/** The signatures of a library's functions, by name. */
export type SymbolTable = Readonly<
  Record<string, { readonly args: readonly Kind[]; readonly returns: "i32" }>
>;

interface Arguments {
  readonly ptr: Uint8Array | Uint32Array | null;
  readonly u64: number;
  readonly u32: number;
  readonly i32: number;
}

type ArgumentsOf<Kinds extends readonly Kind[]> = {
  -readonly [Index in keyof Kinds]: Arguments[Kinds[Index]];
};

/** The functions of a library. They block the calling thread, and use an array during the call only. */
export type FunctionsOf<Table extends SymbolTable> = {
  readonly [Name in keyof Table]: (...values: ArgumentsOf<Table[Name]["args"]>) => number;
};

/** A JavaScript runtime. */
export interface Runtime {
  /** The path or address of the program's first module. */
  program(): string;
  /** True in a compiled program that contains the native libraries as files that the dynamic linker cannot open. */
  isCompiled(): boolean;
  /** Opens a native library. The runtime believes the signatures. */
  open<Table extends SymbolTable>(path: string, table: Table): FunctionsOf<Table>;
}
