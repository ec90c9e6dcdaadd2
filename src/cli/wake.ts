/** `camem wake` wakes an engine over HTTP. */

import type { Command } from "./command.ts";
import { clientFor, engineOptions, given, listOf, textOf } from "./engine-options.ts";
import { withProgress } from "./transition-progress.ts";

export const wake: Command = {
  synopsis: "wake <engine> [--tags a,b] [--model name] [--token secret]",
  description: [
    "wakes an engine, as POST /wake_up, and shows the progress; arguments and exit statuses as for sleep",
  ],
  options: { ...engineOptions, tags: { type: "string" } },
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
