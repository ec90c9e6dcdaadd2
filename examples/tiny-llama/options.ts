import { parseArgs } from "node:util";
import { parseSize } from "camem";

export const usage = `Usage: bun examples/tiny-llama/demo.ts [options]

Loads a small language model into NPU memory, writes some text, sleeps, wakes up, and writes the same text again.

  --backend <name>     ascend or emulator            (default: the NPU if there is one, otherwise the emulator)
  --kv-cache <size>    size of the key-value cache   (default: 512MiB)
  --prompt <text>      the text to continue          (default: "Call me Ishmael.")
  --tokens <number>    how many bytes to write       (default: 120)
  --json               print one line of JSON on standard output and nothing else
  --help               print this text

Examples:
  bun run demo
  bun run demo --backend emulator --prompt "Once upon a time" --tokens 60
  bun run demo --json`;

export interface DemoOptions {
  readonly backend: "ascend" | "emulator" | undefined;
  readonly kvCacheBytes: number;
  readonly prompt: string;
  readonly tokens: number;
  readonly json: boolean;
  readonly help: boolean;
}

/** An invalid command line. The message names the argument. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

const maximumTokens = 10_000;

export function parseOptions(args: readonly string[]): DemoOptions {
  const values = parseValues(args);
  if (values.prompt === "") throw new UsageError("--prompt is empty: give at least one character.");
  return {
    backend: parseBackend(values.backend),
    kvCacheBytes: parseKvCacheBytes(values["kv-cache"]),
    prompt: values.prompt,
    tokens: parseTokens(values.tokens),
    json: values.json,
    help: values.help,
  };
}

function parseValues(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        backend: { type: "string" },
        "kv-cache": { type: "string", default: "512MiB" },
        prompt: { type: "string", default: "Call me Ishmael." },
        tokens: { type: "string", default: "120" },
        json: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

/** @throws UsageError */
export function parseBackend(value: string | undefined): DemoOptions["backend"] {
  if (value === undefined || value === "ascend" || value === "emulator") return value;
  throw new UsageError(`--backend is "${value}": give ascend or emulator.`);
}

function parseTokens(value: string): number {
  const tokens = Number(value);
  if (/^\d+$/.test(value) && tokens >= 1 && tokens <= maximumTokens) return tokens;
  throw new UsageError(`--tokens is "${value}": give a whole number from 1 to ${maximumTokens}.`);
}

/** @throws UsageError */
export function parseKvCacheBytes(value: string): number {
  const sizeBytes = parseSize(value);
  if (sizeBytes !== undefined) return sizeBytes;
  throw new UsageError(`--kv-cache is "${value}": give a number with B, KiB, MiB or GiB, such as 512MiB.`);
}
