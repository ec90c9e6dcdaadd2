/** `camem status` shows the engines of this machine or of a server, and their memory. */

import { formatSize } from "../options/sizes.ts";
import { type Command, CommandFailure, exitStatus, UsageError } from "./command.ts";
import { clientFor, engineDetails, engineOptions, textOf } from "./engine-options.ts";
import { isLocal } from "./local-engine.ts";
import { printLocalStatus } from "./local-status.ts";

/** The answer of `/camem/usage`. */
interface Usage {
  readonly engines: Readonly<Record<string, EngineUsage>>;
  readonly devices: readonly {
    readonly device: number;
    readonly freeBytes: number;
    readonly totalBytes: number;
  }[];
}

interface EngineUsage {
  readonly status: {
    readonly state: string;
    readonly level: number | null;
    readonly reason: string | null;
    readonly awaitingTags: readonly string[];
    readonly requests: { readonly running: number; readonly waiting: number };
    readonly failure: { readonly message: string } | null;
  };
  readonly queue: { readonly waiting: number };
  readonly tags: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

export const status: Command = {
  synopsis: "status [engine] [options]",
  purpose: "shows engines and their memory: all on this machine, the one named, or those of a server",
  details: engineDetails,
  options: {
    json: { type: "boolean", description: "prints JSON; for a server the answer of GET /camem/usage" },
    segments: {
      type: "boolean",
      description: "shows each piece of memory, how it was written, and its rule",
    },
    ...engineOptions,
  },
  examples: ["status", "status llama-server --segments", "status localhost:8000 --json"],
  run: async (values, operands) => {
    const [target] = operands;
    if (operands.length === 0 || (operands.length === 1 && isLocal(target ?? "")))
      return printLocalStatus(target, values);
    if (values["segments"] === true)
      throw new UsageError("--segments is for an engine on this machine: give its name or process number");
    const client = clientFor(values, operands);
    const answer = (await client.get("camem/usage")) as Usage | undefined;
    if (typeof answer?.engines !== "object" || !Array.isArray(answer.devices))
      throw client.foreignAnswer("camem/usage");
    const usage = ofModel(answer, textOf(values["model"]));
    console.log(values["json"] === true ? JSON.stringify(usage, null, 2) : linesOf(usage).join("\n"));
    return 0;
  },
};

function ofModel(usage: Usage, model: string | undefined): Usage {
  if (model === undefined) return usage;
  const engine = Object.hasOwn(usage.engines, model) ? usage.engines[model] : undefined;
  if (engine !== undefined) return { ...usage, engines: { [model]: engine } };
  const names = Object.keys(usage.engines).join(", ");
  throw new CommandFailure(`there is no model "${model}"; the models are ${names}`, exitStatus.refused);
}

function linesOf({ engines, devices }: Usage): string[] {
  return [
    ...Object.entries(engines).flatMap(([name, engine]) => engineLines(name, engine)),
    ...devices.map(
      ({ device, freeBytes, totalBytes }) =>
        `device ${device}: ${formatSize(freeBytes)} free of ${formatSize(totalBytes)}`,
    ),
  ];
}

function engineLines(name: string, { status, queue, tags }: EngineUsage): string[] {
  const { state, level, reason, awaitingTags, requests, failure } = status;
  const depth = level === null ? "" : ` at level ${level}${reason === null ? "" : `, by ${reason}`}`;
  const lost = awaitingTags.length === 0 ? "" : `; content lost: ${awaitingTags.join(", ")}`;
  const waiting = requests.waiting + queue.waiting;
  return [
    `${name}: ${state}${depth}${lost}; ${requests.running} requests running, ${waiting} waiting`,
    ...(failure === null ? [] : [`  ${failure.message}`]),
    ...Object.entries(tags).map(([tag, memory]) => `  ${tag}: ${memoryText(memory)}`),
  ];
}

const kinds: Readonly<Record<string, string>> = {
  mappedBytes: "on the device",
  hostBytes: "in host memory",
  spilledBytes: "spilled",
  checkpointBytes: "in its checkpoint",
  discardedBytes: "discarded",
};

function memoryText(memory: Readonly<Record<string, number>>): string {
  const parts = Object.entries(kinds).flatMap(([key, text]) => {
    const bytes = memory[key] ?? 0;
    return bytes > 0 ? [`${formatSize(bytes)} ${text}`] : [];
  });
  return parts.join(", ") || "empty";
}
