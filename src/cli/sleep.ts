/** `camem sleep` puts an engine to sleep: of this machine, or over HTTP. */

import { formatSize } from "../options/sizes.ts";
import type { SleepLevel } from "../policy/tag-policies.ts";
import { type Command, UsageError } from "./command.ts";
import { clientFor, engineDetails, engineOptions, given, listOf, textOf } from "./engine-options.ts";
import { isLocal, refuseServerOptions, withEngine } from "./local-engine.ts";
import { withProgress } from "./transition-progress.ts";

export const sleep: Command = {
  synopsis: "sleep <engine> [options]",
  purpose: "puts an engine to sleep and shows the progress",
  details: engineDetails,
  options: {
    level: {
      type: "string",
      value: "<level>",
      description: "0 pauses, 1 offloads weights, 2 discards them; by default 1",
    },
    mode: {
      type: "string",
      value: "<mode>",
      description: "requests in flight: abort them, wait for them, or keep them; by default abort",
    },
    tags: { type: "string", value: "<a,b>", description: "only memory under these tags; by default all" },
    "offload-tags": {
      type: "string",
      value: "<a,b>",
      description: "offload these tags and discard the rest; by default what the level says",
    },
    ...engineOptions,
  },
  examples: [
    "sleep llama-server",
    "sleep localhost:8000",
    "sleep localhost:8000 --level 2 --mode wait",
    "sleep unix:/run/engine/admin.sock --tags kv_cache",
  ],
  run: async (values, operands) => {
    const [target] = operands;
    if (target !== undefined && operands.length === 1 && isLocal(target)) return sleepLocal(target, values);
    const client = clientFor(values, operands);
    const model = textOf(values["model"]);
    const body = given({
      model,
      level: levelOf(values["level"]),
      mode: modeOf(values["mode"]),
      tags: listOf(values["tags"]),
      offload_tags: listOf(values["offload-tags"]),
    });
    const answer = await withProgress(client, { operation: "sleep", model }, () =>
      client.move("sleep", body),
    );
    const { level = body["level"] ?? 1, already_sleeping } = answer;
    console.log(`${already_sleeping === true ? "already " : ""}asleep at level ${level}`);
    return 0;
  },
};

async function sleepLocal(target: string, values: Readonly<Record<string, unknown>>): Promise<number> {
  refuseServerOptions(values, "sleep");
  const [level, tags, offloadTags] = [
    levelOf(values["level"]),
    listOf(values["tags"]),
    listOf(values["offload-tags"]),
  ];
  const report = await withEngine(target, (allocator, onProgress) =>
    allocator.sleep({ level, tags, offloadTags, onProgress }),
  );
  const { freedBytes, alreadySleeping } = report;
  const depth = report.level === null ? "" : ` at level ${report.level}`;
  console.log(
    alreadySleeping
      ? `already asleep${depth}`
      : `asleep${depth}, ${formatSize(freedBytes)} of device memory freed`,
  );
  return 0;
}

function modeOf(value: unknown): string | undefined {
  const mode = textOf(value);
  if (mode === undefined || ["abort", "wait", "keep"].includes(mode)) return mode;
  throw new UsageError(`--mode is "${mode}"; it must be abort, wait or keep`);
}

function levelOf(value: unknown): SleepLevel | undefined {
  if (value === undefined) return undefined;
  if (typeof value === "string" && /^[012]$/.test(value)) return Number(value) as SleepLevel;
  throw new UsageError(`--level is "${value}"; it must be 0, 1 or 2`);
}
