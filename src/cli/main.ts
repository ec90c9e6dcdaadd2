#!/usr/bin/env bun
/** The `camem` command: parses arguments and runs the verb. */

import { type ParseArgsOptionsConfig, parseArgs } from "node:util";
import manifest from "../../package.json" with { type: "json" };
import { CamemError } from "../errors.ts";
import { nearestName } from "../options/nearest-name.ts";
import { type Command, CommandFailure, exitStatus, UsageError } from "./command.ts";
import { doctor } from "./doctor.ts";
import { gateway } from "./gateway.ts";
import { commandHelp, commandUsage, generalHelp } from "./help.ts";
import { run as runProgram } from "./run.ts";
import { sleep } from "./sleep.ts";
import { status } from "./status.ts";
import { wake } from "./wake.ts";

const commands: ReadonlyMap<string, Command> = new Map([
  ["doctor", doctor],
  ["run", runProgram],
  ["gateway", gateway],
  ["sleep", sleep],
  ["wake", wake],
  ["status", status],
]);

const commonOptions: ParseArgsOptionsConfig = {
  help: { type: "boolean", short: "h" },
  version: { type: "boolean", short: "v" },
};

/** The verb that arguments name, also as in `camem help doctor`. A program may follow after `--`. */
function verbOf(all: readonly string[]): string | undefined {
  const separator = all.indexOf("--");
  const args = separator < 0 ? all : all.slice(0, separator);
  const [first, second] = args.filter((argument) => !argument.startsWith("-"));
  return first === "help" ? second : first;
}

/** The help for arguments: of the verb that they name, or of the whole command. */
function helpFor(args: readonly string[]): string {
  const command = commands.get(verbOf(args) ?? "");
  return command === undefined ? generalHelp(commands) : commandHelp(command);
}

/** How to use the verb that arguments name, in two lines; without one the help of the whole command. */
function usageFor(args: readonly string[]): string {
  const verb = verbOf(args) ?? "";
  const command = commands.get(verb);
  return command === undefined ? generalHelp(commands) : commandUsage(verb, command);
}

/** @throws UsageError, or CommandFailure */
async function run(all: string[]): Promise<number> {
  const separator = all.indexOf("--");
  const args = separator < 0 ? all : all.slice(0, separator);
  const verb = verbOf(args);
  const command = verb === undefined ? undefined : commands.get(verb);
  const { values, positionals } = parse(args, { ...commonOptions, ...command?.options });
  const [first, ...operands] = positionals;
  if (verb !== undefined && command === undefined)
    throw new UsageError(`there is no command "${verb}"${adviceFor(verb)}`);
  if (values["help"] === true || first === "help") {
    console.log(helpFor(args));
    return 0;
  }
  if (values["version"] === true) {
    console.log(manifest.version);
    return 0;
  }
  if (command === undefined) throw new UsageError("say which command");
  if (separator >= 0 && command.takesProgram !== true)
    throw new UsageError(`"camem ${verb}" takes no program after "--"`);
  const program = separator < 0 ? [] : all.slice(separator + 1);
  return command.run(values, operands, program);
}

function adviceFor(verb: string): string {
  const nearest = nearestName(verb, [...commands.keys()]);
  return nearest === undefined ? "" : `; did you mean "${nearest}"?`;
}

function parse(args: string[], options: ParseArgsOptionsConfig) {
  try {
    return parseArgs({ args, options, allowPositionals: true });
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    // After its first sentence, the message gives advice on arguments that begin with a dash.
    const message = error.message.split(". ")[0] ?? "";
    const unknown = /^Unknown option '--([^']+)'$/.exec(message)?.[1];
    const nearest = unknown && nearestName(unknown, Object.keys(options));
    const [, lacking] = /^Option '(?:-\w, )?(--[\w-]+) <.*argument missing$/.exec(message) ?? [];
    if (lacking !== undefined) throw new UsageError(`${lacking} needs a value`);
    if (unknown === undefined) throw new UsageError(message);
    const hint = nearest === undefined ? "" : `; did you mean --${nearest}?`;
    throw new UsageError(`there is no option --${unknown}${hint}`);
  }
}

async function main(args: string[]): Promise<number> {
  try {
    return await run(args);
  } catch (error) {
    if (error instanceof CommandFailure) {
      console.error(`camem: ${error.message}`);
      return error.status;
    }
    if (error instanceof CamemError) {
      console.error(`camem: ${error.message}`);
      return exitStatus.refused;
    }
    if (!(error instanceof UsageError)) throw error;
    console.error(`camem: ${error.message}\n${usageFor(args)}`);
    return exitStatus.usage;
  }
}

process.exitCode = await main(process.argv.slice(2));
