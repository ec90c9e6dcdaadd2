/** The exports of the shim as functions, whichever JavaScript runtime calls them. */

import type { servedCalls, symbols } from "./symbols.gen.ts";

/** A pointer is passed as the array that it points to. */
interface Arguments {
  readonly ptr: Uint8Array | Uint32Array | null;
  readonly u64: number;
  readonly u32: number;
  readonly i32: number;
}

type ArgumentsOf<Kinds extends readonly (keyof Arguments)[]> = {
  -readonly [Index in keyof Kinds]: Arguments[Kinds[Index]];
};

/** Every export of the shim. Each returns a `Status`. */
export type Exports = {
  readonly [Name in keyof typeof symbols]: (...values: ArgumentsOf<(typeof symbols)[Name]["args"]>) => number;
};

type ServedName = (typeof servedCalls)[number];

/** The export of the shim that makes a call in another process. */
export type RemoteName<Name extends ServedName> = Name extends `camem_${infer Rest}`
  ? `camem_remote_${Rest}`
  : never;

type WithoutConnection<Function> = Function extends (connection: number, ...values: infer Values) => number
  ? (...values: Values) => number
  : never;

/** The exports that an engine in another process serves. */
export type ServedExports = {
  readonly [Name in ServedName]: WithoutConnection<Exports[RemoteName<Name>]>;
};

/** The exports that work on the shim of this process and on that of an engine in another process. */
export type SharedExports = Pick<ServedExports, ServedName & keyof Exports>;
