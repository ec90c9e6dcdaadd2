/** The exports of the shim as functions, whichever JavaScript runtime calls them. */

import type { FunctionsOf } from "./runtime.ts";
import type { servedCalls, symbols } from "./symbols.gen.ts";

/** Every export of the shim. Each returns a `Status`. */
export type Exports = FunctionsOf<typeof symbols>;

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
