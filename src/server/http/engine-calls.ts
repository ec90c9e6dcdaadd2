/** Calls of an engine that several dialects make. */

import type { SleepLevel } from "../../policy/tag-policies.ts";
import type { SleepController } from "../engine/controller.ts";
import type { ReloadOptions } from "../engine/controller-options.ts";
import { notSupported } from "./engine-hooks.ts";
import { RequestError } from "./replies.ts";
import { invalid } from "./request-input.ts";

interface DepthInput {
  readonly level?: SleepLevel;
  readonly offload_tags?: readonly string[];
}

/** How deep a sleep is. As in vLLM, `offload_tags` decides instead of the level, which clients send always. */
export function depthOf({ level, offload_tags: offloadTags }: DepthInput) {
  if (offloadTags === undefined) return { level };
  if (level === 0) throw invalid("level 0 moves no memory; leave out offload_tags", "query.level");
  return { offloadTags };
}

/** @throws RequestError 501 without `reload`, or 504; CamemError as `SleepController.reloadWeights` */
export async function reloadWeights(engine: SleepController, options: ReloadOptions): Promise<void> {
  if (!engine.canReload)
    throw notSupported(
      `the engine ${engine.name} cannot load its weights: give its SleepController the option reload`,
    );
  try {
    await engine.reloadWeights(options);
  } catch (error) {
    if (!options.signal?.aborted) throw error;
    throw new RequestError(
      504,
      "TIMED_OUT",
      "the weights were not loaded within timeout; they count as lost",
    );
  }
}
