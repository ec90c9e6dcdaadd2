import type { ParseArgsOptionsConfig } from "node:util";

/** A verb of the `camem` command. */
export interface Command {
  /** The verb's arguments, after `camem`. */
  readonly synopsis: string;
  /** What the verb does, in lines of at most 100 columns. */
  readonly description: readonly string[];
  readonly options: ParseArgsOptionsConfig;
  /** @returns the exit status */
  run(values: Readonly<Record<string, unknown>>): Promise<number>;
}
