/** `camem sleep` puts an engine to sleep over HTTP. */

import { type Command, UsageError } from "./command.ts";
import { clientFor, engineOptions, given, listOf, textOf } from "./engine-options.ts";
import { withProgress } from "./transition-progress.ts";

export const sleep: Command = {
  synopsis:
    "sleep <engine> [--level 0|1|2] [--mode abort|wait|keep] [--tags a,b] [--offload-tags a,b] [--model name] [--token secret]",
  description: [
    "puts an engine to sleep, as POST /sleep, and shows the progress;",
    "<engine> is a URL such as http://localhost:8000, or unix:/path/to/socket;",
    "the token comes from CAMEM_TOKEN or --token;",
    "exits with 1 when the engine refuses or fails, and with 3 when it cannot be reached",
  ],
  options: {
    ...engineOptions,
    level: { type: "string" },
    mode: { type: "string" },
    tags: { type: "string" },
    "offload-tags": { type: "string" },
  },
  run: async (values, operands) => {
    const client = clientFor(values, operands);
    const model = textOf(values["model"]);
    const body = given({
      model,
      level: levelOf(values["level"]),
      mode: textOf(values["mode"]),
      tags: listOf(values["tags"]),
      offload_tags: listOf(values["offload-tags"]),
    });
    const answer = await withProgress(client, { operation: "sleep", model }, () =>
      client.post("sleep", body),
    );
    const { level = body["level"] ?? 1, already_sleeping } = answer ?? {};
    console.log(`${already_sleeping === true ? "already " : ""}asleep at level ${level}`);
    return 0;
  },
};

function levelOf(value: unknown): number | undefined {
  if (value === undefined) return undefined;
  if (typeof value === "string" && /^[012]$/.test(value)) return Number(value);
  throw new UsageError(`--level is "${value}"; it must be 0, 1 or 2`);
}
