/** The models, requests and expected texts that the tests of examples/serve share. */

import { join } from "node:path";
import type { ServeOptions } from "../../examples/serve/options.ts";
import { MiB } from "../support/device.ts";

export const root = join(import.meta.dir, "../..");
export const reference = (await Bun.file(join(root, "examples/tiny-llama/model/reference.json")).json()) as {
  readonly prompt: string;
  readonly greedy_120_bytes: string;
}[];
export const kvCacheBytes = 64 * MiB;
export const model = "tiny-llama";
export const twin = "tiny-llama-twin";
export const prompt = "Call me Ishmael.";
export const ask = { model, prompt, max_tokens: 40 };

export const defaults: ServeOptions = {
  models: [model, twin],
  hostname: "127.0.0.1",
  port: 0,
  adminPort: undefined,
  adminSocket: undefined,
  token: undefined,
  apiKey: undefined,
  idle: [],
  residency: "0ms",
  wakeOperatorSleep: true,
  whenPaused: "hold",
  kvCacheBytes,
  log: false,
};

/** The first `length` bytes, at most 120, of the text that the model generates for a prompt. */
export function expected(prompt: string, length: number): string {
  const bytes = reference.find((one) => one.prompt === prompt)?.greedy_120_bytes.slice(0, length) ?? "";
  return new TextDecoder().decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0)));
}

/** The text for `ask`. */
export const answer = expected(prompt, 40);
