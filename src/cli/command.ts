/** What a verb of the `camem` command is. */

import type { ParseArgsOptionDescriptor } from "node:util";
import { CamemError } from "../errors.ts";
import type { AccessOptions } from "../server/http/access.ts";

/** An option of a verb. */
interface CommandOption extends ParseArgsOptionDescriptor {
  /** The name of its value in the help, such as `<level>`; none for a flag. */
  readonly value?: string;
  /** What it does, and its default. */
  readonly description: string;
}

export type CommandOptions = Readonly<Record<string, CommandOption>>;

/** A verb of the `camem` command. */
export interface Command {
  /** The verb and its operands, without options. */
  readonly synopsis: string;
  /** What the verb is for, in one line. */
  readonly purpose: string;
  /** More about it, in lines of at most 100 columns. */
  readonly details: readonly string[];
  readonly options: CommandOptions;
  /** Command lines without `camem`. */
  readonly examples: readonly string[];
  /** True when a program and its arguments follow after `--`. */
  readonly takesProgram?: boolean;
  /**
   * @param operands the arguments after the verb that are no options
   * @param program what follows after `--`
   * @returns the exit status
   * @throws UsageError, or CommandFailure
   */
  run(
    values: Readonly<Record<string, unknown>>,
    operands: readonly string[],
    program: readonly string[],
  ): Promise<number>;
}

/** Arguments that do not make sense. The exit status is 2. */
export class UsageError extends Error {}

/** Exit statuses of verbs that fail; 127 is that of a shell for a program that it cannot start. */
export const exitStatus = { refused: 1, usage: 2, unreachable: 3, notStarted: 127 } as const;

/** A verb that cannot do what it was asked to. */
export class CommandFailure extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

/** @throws UsageError for operands, which most verbs do not have */
export function refuseOperands(operands: readonly string[]): void {
  if (operands.length > 0) throw new UsageError(`unexpected argument "${operands.join(" ")}"`);
}

/** @throws UsageError for options that `resolve` refuses with `INVALID_CONFIG` */
export function usageOf<T>(resolve: () => T): T {
  try {
    return resolve();
  } catch (error) {
    if (error instanceof CamemError && error.code === "INVALID_CONFIG") throw new UsageError(error.message);
    throw error;
  }
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
