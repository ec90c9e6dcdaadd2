/** Options that `sleep`, `wake` and `status` share. */

import type { ParseArgsOptionsConfig } from "node:util";
import { EngineClient, tokenFrom } from "./engine-client.ts";
import { parseTarget } from "./engine-target.ts";

type Values = Readonly<Record<string, unknown>>;

export const engineOptions: ParseArgsOptionsConfig = {
  token: { type: "string" },
  model: { type: "string" },
};

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
