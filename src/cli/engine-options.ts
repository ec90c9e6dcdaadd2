/** Options that `sleep`, `wake` and `status` share. */

import type { CommandOptions } from "./command.ts";
import { EngineClient, tokenFrom } from "./engine-client.ts";
import { parseTarget } from "./engine-target.ts";

type Values = Readonly<Record<string, unknown>>;

export const engineOptions = {
  token: {
    type: "string",
    value: "<secret>",
    description: "the bearer token; by default CAMEM_TOKEN, which other users cannot see",
  },
  model: {
    type: "string",
    value: "<name>",
    description: "the engine's name; needed where the server has several",
  },
} as const satisfies CommandOptions;

/** Details that these verbs share. */
export const engineDetails: readonly string[] = [
  "<engine> is the name or process number of an engine on this machine that `camem run` started, or a",
  "URL such as http://localhost:8000, or unix:/path/to/socket. --mode, --model and --token are for URLs.",
  "Exits with 1 when the engine refuses or fails, and with 3 when it cannot be reached.",
];

/** @throws UsageError */
export function clientFor(values: Values, operands: readonly string[]): EngineClient {
  return new EngineClient(parseTarget(operands), tokenFrom(values["token"], process.env));
}

export function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

/** `weights,kv_cache` as an array. */
export function listOf(value: unknown): string[] | undefined {
  return textOf(value)
    ?.split(",")
    .map((name) => name.trim());
}

/** The entries that are given. */
export function given(entries: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined));
}
