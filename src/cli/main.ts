#!/usr/bin/env bun
/** The `camem` command: parses arguments and runs the verb. */

import { type ParseArgsOptionsConfig, parseArgs } from "node:util";
import manifest from "../../package.json" with { type: "json" };
import { CamemError } from "../errors.ts";
import { type Command, CommandFailure, exitStatus, UsageError } from "./command.ts";
import { doctor } from "./doctor.ts";
import { gateway } from "./gateway.ts";
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

function usage(): string {
  const synopses = [...commands.values()].map(({ synopsis }) => `camem ${synopsis}`);
  synopses.push("camem help", "camem --version");
  const descriptions = [...commands].map(([verb, { description }]) =>
    description.map((line, index) => `${(index === 0 ? verb : "").padEnd(10)}${line}\n`).join(""),
  );
  return `usage: ${synopses.join("\n       ")}\n\n${descriptions.join("")}`;
}

/** @throws UsageError, or CommandFailure */
async function run(all: string[]): Promise<number> {
  const separator = all.indexOf("--");
  const args = separator < 0 ? all : all.slice(0, separator);
  const verb = args.find((argument) => !argument.startsWith("-"));
  const command = verb === undefined ? undefined : commands.get(verb);
  const { values, positionals } = parse(args, { ...commonOptions, ...command?.options });
  if (values["help"] === true || verb === "help") {
    console.log(usage());
    return 0;
  }
  if (values["version"] === true) {
    console.log(manifest.version);
    return 0;
  }
  if (verb === undefined) throw new UsageError("say which command");
  if (command === undefined) throw new UsageError(`there is no command "${positionals.join(" ")}"`);
  if (separator >= 0 && command.takesProgram !== true)
    throw new UsageError(`"camem ${verb}" takes no program after "--"`);
  const program = separator < 0 ? [] : all.slice(separator + 1);
  return command.run(values, positionals.slice(1), program);
}

function parse(args: string[], options: ParseArgsOptionsConfig) {
  try {
    return parseArgs({ args, options, allowPositionals: true });
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    // After its first sentence, the message gives advice on arguments that begin with a dash.
    throw new UsageError(error.message.split(". ")[0]);
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
    console.error(`camem: ${error.message}\n${usage()}`);
    return 2;
  }
}

process.exitCode = await main(process.argv.slice(2));
