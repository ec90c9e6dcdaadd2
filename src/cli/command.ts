import type { ParseArgsOptionsConfig } from "node:util";
import type { AccessOptions } from "../server/http/access.ts";

/** A verb of the `camem` command. */
export interface Command {
  /** The verb's arguments, after `camem`. */
  readonly synopsis: string;
  /** What the verb does, in lines of at most 100 columns. */
  readonly description: readonly string[];
  readonly options: ParseArgsOptionsConfig;
  /** True when a program and its arguments follow after `--`. */
  readonly takesProgram?: boolean;
  /**
   * @param program what follows after `--`
   * @returns the exit status
   */
  run(values: Readonly<Record<string, unknown>>, program: readonly string[]): Promise<number>;
}

/** `parse(text)`, or undefined without a text. */
export function optionalOf<T>(text: string | undefined, parse: (text: string) => T): T | undefined {
  return text === undefined ? undefined : parse(text);
}

/** Who may use the administrative routes: whoever sends CAMEM_TOKEN; without it, this machine. */
export function accessFrom(environment: Readonly<Record<string, string | undefined>>): AccessOptions {
  const token = environment["CAMEM_TOKEN"];
  return token === undefined || token === "" ? { loopbackOnly: true } : { token };
}
