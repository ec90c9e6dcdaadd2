/** The help texts of the `camem` command. */

import type { Command, CommandOptions } from "./command.ts";

const column = 26;

/** `name` and `text` in two columns; a long name has a line of its own. */
function entry(name: string, text: string): string {
  const left = `  ${name}`;
  return left.length < column ? `${left.padEnd(column)}${text}` : `${left}\n${" ".repeat(column)}${text}`;
}

const section = (title: string, lines: readonly string[]) =>
  lines.length === 0 ? [] : ["", `${title}:`, ...lines];

const optionLines = (options: CommandOptions) =>
  Object.entries(options).map(([name, { value, description }]) =>
    entry(value === undefined ? `--${name}` : `--${name} ${value}`, description),
  );

/** The help of one verb: its purpose, its options with their defaults, and examples. */
export function commandHelp({ synopsis, purpose, details, options, examples }: Command): string {
  return [
    `usage: camem ${synopsis}`,
    "",
    `${purpose.charAt(0).toUpperCase()}${purpose.slice(1)}.`,
    ...details,
    ...section("options", optionLines(options)),
    ...section(
      "examples",
      examples.map((example) => `  camem ${example}`),
    ),
  ].join("\n");
}

/** How to use one verb, in two lines. */
export function commandUsage(verb: string, { synopsis }: Command): string {
  return `usage: camem ${synopsis}\n"camem ${verb} --help" explains the options`;
}

/** The help of the command: what each verb is for. */
export function generalHelp(commands: ReadonlyMap<string, Command>): string {
  return [
    "usage: camem <command> [options]",
    ...section(
      "commands",
      [...commands].map(([verb, { purpose }]) => entry(verb, purpose)),
    ),
    ...section("options", [
      entry("--help, -h", "this help, or that of the command"),
      entry("--version, -v", "the version of camem"),
    ]),
    "",
    "camem <command> --help shows the options of a command, and examples.",
  ].join("\n");
}
