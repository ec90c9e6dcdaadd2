/** `camem wake` wakes an engine: of this machine, or over HTTP. */

import type { Command } from "./command.ts";
import { clientFor, engineDetails, engineOptions, given, listOf, textOf } from "./engine-options.ts";
import { isLocal, refuseServerOptions, withEngine } from "./local-engine.ts";
import { withProgress } from "./transition-progress.ts";

export const wake: Command = {
  synopsis: "wake <engine> [options]",
  purpose: "wakes an engine and shows the progress",
  details: engineDetails,
  options: {
    tags: { type: "string", value: "<a,b>", description: "only memory under these tags; by default all" },
    ...engineOptions,
  },
  examples: ["wake llama-server", "wake localhost:8000", "wake localhost:8000 --tags weights --model qwen"],
  run: async (values, operands) => {
    const [target] = operands;
    if (target !== undefined && operands.length === 1 && isLocal(target)) return wakeLocal(target, values);
    const client = clientFor(values, operands);
    const model = textOf(values["model"]);
    const body = given({ model, tags: listOf(values["tags"]) });
    const answer = await withProgress(client, { operation: "wake", model }, () =>
      client.move("wake_up", body),
    );
    console.log(describe(answer));
    return 0;
  },
};

async function wakeLocal(target: string, values: Readonly<Record<string, unknown>>): Promise<number> {
  refuseServerOptions(values, "wake");
  const { alreadyAwake, stillAsleep, lostTags } = await withEngine(target, (allocator, onProgress) =>
    allocator.wakeUp({ tags: listOf(values["tags"]), onProgress }),
  );
  const lost = lostTags.length === 0 ? "" : `, but without the content of ${lostTags.join(", ")}`;
  if (stillAsleep.length > 0) console.log(`some tags are still asleep: ${stillAsleep.join(", ")}${lost}`);
  else console.log(alreadyAwake ? "already awake" : `awake${lost}`);
  return 0;
}

function describe({ status, already_awake, awaiting_weights }: Readonly<Record<string, unknown>>): string {
  if (Array.isArray(awaiting_weights))
    return `${status ?? "awake"}, but without the content of ${awaiting_weights.join(", ")}: load it, then POST /camem/confirm_weights`;
  if (status === "sleeping") return "some tags are still asleep";
  return already_awake === true ? "already awake" : "awake";
}
