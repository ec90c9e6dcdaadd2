/** `camem wake` wakes an engine over HTTP. */

import type { Command } from "./command.ts";
import { clientFor, engineDetails, engineOptions, given, listOf, textOf } from "./engine-options.ts";
import { withProgress } from "./transition-progress.ts";

export const wake: Command = {
  synopsis: "wake <engine> [options]",
  purpose: "wakes an engine, as POST /wake_up, and shows the progress",
  details: engineDetails,
  options: {
    tags: { type: "string", value: "<a,b>", description: "only memory under these tags; by default all" },
    ...engineOptions,
  },
  examples: ["wake localhost:8000", "wake localhost:8000 --tags weights --model qwen"],
  run: async (values, operands) => {
    const client = clientFor(values, operands);
    const model = textOf(values["model"]);
    const body = given({ model, tags: listOf(values["tags"]) });
    const answer = await withProgress(client, { operation: "wake", model }, () =>
      client.post("wake_up", body),
    );
    console.log(describe(answer ?? {}));
    return 0;
  },
};

function describe({ status, already_awake, awaiting_weights }: Readonly<Record<string, unknown>>): string {
  if (Array.isArray(awaiting_weights))
    return `${status ?? "awake"}, but without the content of ${awaiting_weights.join(", ")}: load it, then POST /camem/confirm_weights`;
  if (status === "sleeping") return "some tags are still asleep";
  return already_awake === true ? "already awake" : "awake";
}
