/** The options of `sleep`, `prepare` and `wakeUp`, and the checks of them. */

import type { Static } from "typebox";
import { CamemError, formatValue } from "../errors.ts";
import { closedObject, Flag, optional, Tags } from "../options/schemas.ts";
import { validate } from "../options/validate.ts";
import { checkTag } from "../policy/tag-names.ts";
import { SleepSelection } from "../policy/tag-policies.ts";
import { TransitionControl } from "./progress.ts";
import { Order, tagsOfOrder } from "./wake-order.ts";

const WakeSelection = closedObject({
  /** Wake only these tags; by default all. */
  tags: optional(Tags),
  /** Whether memory that is mapped without its content is zeroed; by default as the policy of its tag says. */
  zero: optional(Flag),
});

/** The tags that a wake-up concerns, and what happens to memory without content. */
export interface WakeSelection extends Static<typeof WakeSelection> {}

/** Options of `sleep` and `prepare`. */
export interface SleepOptions extends SleepSelection, TransitionControl {}

const SleepOptions = closedObject({ ...SleepSelection.properties, ...TransitionControl.properties });
const WakeOrdering = closedObject({
  /**
   * The order in which content comes back, from what is used first: tags, buffers, and lists of these. `"loaded"` is the order
   * in which memory was allocated, as by `loadSafetensors`. See {@link WakeUp}. By default there is none.
   */
  order: optional(Order),
});

const WakeOptions = closedObject({
  ...WakeSelection.properties,
  ...WakeOrdering.properties,
  ...TransitionControl.properties,
});

/** Options of `wakeUp`. */
export interface WakeOptions extends WakeSelection, Static<typeof WakeOrdering>, TransitionControl {}

/** Whether an allocator knows a tag. */
export type IsKnownTag = (tag: string) => boolean;

/** @throws CamemError `INVALID_TAG` or `UNKNOWN_TAG` */
export function checkKnownTag(tag: string, isKnown: IsKnownTag): void {
  checkTag(tag);
  if (isKnown(tag)) return;
  throw new CamemError(
    "UNKNOWN_TAG",
    `there is no tag ${formatValue(tag)}; usage() lists the tags in use, and defineTag() adds one`,
  );
}

/** @throws CamemError `UNKNOWN_LEVEL`, `INVALID_TAG`, `UNKNOWN_TAG` or `INVALID_ARGUMENT` */
export function checkSleepOptions(
  options: unknown,
  isKnown: IsKnownTag,
  method: "sleep" | "prepare" = "sleep",
): void {
  validate(SleepOptions, options, method, "INVALID_ARGUMENT", {
    codes: { level: "UNKNOWN_LEVEL", tags: "INVALID_TAG", offloadTags: "INVALID_TAG" },
  });
  const { level, tags = [], offloadTags } = options;
  for (const tag of [...tags, ...(offloadTags ?? [])]) checkKnownTag(tag, isKnown);
  if (level !== undefined && offloadTags !== undefined)
    throw new CamemError(
      "INVALID_ARGUMENT",
      "give level or offloadTags, not both: a level decides which tags are offloaded",
    );
}

/** @throws CamemError `INVALID_TAG`, `UNKNOWN_TAG` or `INVALID_ARGUMENT` */
export function checkWakeOptions(options: unknown, isKnown: IsKnownTag): void {
  validate(WakeOptions, options, "wakeUp", "INVALID_ARGUMENT", {
    codes: { tags: "INVALID_TAG" },
  });
  const { tags, order } = options;
  for (const tag of tags ?? []) checkKnownTag(tag, isKnown);
  for (const tag of order === undefined ? [] : tagsOfOrder(order)) {
    checkKnownTag(tag, isKnown);
    if (tags === undefined || tags.includes(tag)) continue;
    throw new CamemError(
      "INVALID_ARGUMENT",
      `order names memory under ${formatValue(tag)}, which tags leaves asleep; add that tag`,
      { property: "order" },
    );
  }
}
