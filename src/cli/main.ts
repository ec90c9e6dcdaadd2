#!/usr/bin/env bun
/** The `camem` command: parses arguments and runs the verb. */

import { type ParseArgsOptionsConfig, parseArgs } from "node:util";
import manifest from "../../package.json" with { type: "json" };
import { CamemError } from "../errors.ts";
import type { Command } from "./command.ts";
import { doctor } from "./doctor.ts";
import { run as runProgram } from "./run.ts";

const commands: ReadonlyMap<string, Command> = new Map([
  ["doctor", doctor],
  ["run", runProgram],
]);

function usage(): string {
  const synopses = [...commands.values()].map(({ synopsis }) => `camem ${synopsis}`);
  synopses.push("camem help", "camem --version");
  const descriptions = [...commands].map(([verb, { description }]) =>
    description.map((line, index) => `${(index === 0 ? verb : "").padEnd(10)}${line}\n`).join(""),
  );
  return `usage: ${synopses.join("\n       ")}\n\n${descriptions.join("")}`;
}

/** @throws TypeError for arguments that do not make sense */
async function run(all: string[]): Promise<number> {
  const separator = all.indexOf("--");
  const args = separator < 0 ? all : all.slice(0, separator);
  const options: ParseArgsOptionsConfig = Object.assign(
    { help: { type: "boolean", short: "h" }, version: { type: "boolean", short: "v" } },
    ...[...commands.values()].map((command) => command.options),
  );
  const { values, positionals } = parseArgs({ args, options, allowPositionals: true });
  const [verb, ...rest] = positionals;
  if (values["help"] === true || verb === "help") {
    console.log(usage());
    return 0;
  }
  if (values["version"] === true) {
    console.log(manifest.version);
    return 0;
  }
  if (verb === undefined) throw new TypeError("say which command");
  const command = rest.length === 0 ? commands.get(verb) : undefined;
  if (command === undefined) throw new TypeError(`there is no command "${positionals.join(" ")}"`);
  const program = separator < 0 ? [] : all.slice(separator + 1);
  if (separator >= 0 && command.takesProgram !== true)
    throw new TypeError(`"camem ${verb}" takes no program after "--"`);
  return command.run(values, program);
}

async function main(args: string[]): Promise<number> {
  try {
    return await run(args);
  } catch (error) {
    if (error instanceof CamemError) {
      console.error(`camem: ${error.message}`);
      return 1;
    }
    if (!(error instanceof TypeError)) throw error;
    // After its first sentence, the message of `parseArgs` gives advice on arguments that begin with a dash.
    console.error(`camem: ${error.message.split(". ")[0]}\n${usage()}`);
    return 2;
  }
}

process.exitCode = await main(process.argv.slice(2));
