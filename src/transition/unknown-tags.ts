import { CamemError, formatValue } from "../errors.ts";
import type { Config } from "../options/allocator-options.ts";
import type { TreatmentOf } from "../policy/tag-policies.ts";
import { type Step, tagsOf } from "./plan.ts";

/** Tags without a policy whose content a sleep would discard. */
export class UnknownTags {
  readonly #action: Config["unknownTags"];
  readonly #warned = new Set<string>();

  constructor(action: Config["unknownTags"]) {
    this.#action = action;
  }

  /** @throws CamemError `UNKNOWN_TAG` where `unknownTags` is `refuse` */
  assertAccepted(steps: readonly Step[], treatment: TreatmentOf): void {
    if (this.#action !== "refuse") return;
    const [tag] = unknownTagsOf(steps, treatment);
    if (tag === undefined) return;
    throw new CamemError(
      "UNKNOWN_TAG",
      `the tag ${formatValue(tag)} has no policy, so this sleep would discard its content; nothing has changed; call defineTag(), or set unknownTags (CAMEM_UNKNOWN_TAGS) to "discard" or "offload"`,
    );
  }

  /** Warns of each tag the first time that it is discarded. */
  warnOnce(steps: readonly Step[], treatment: TreatmentOf): void {
    for (const tag of unknownTagsOf(steps, treatment)) {
      if (this.#warned.has(tag)) continue;
      this.#warned.add(tag);
      process.emitWarning(
        `a sleep discarded the content under the tag ${formatValue(tag)}, which has no policy; call defineTag(), or set unknownTags (CAMEM_UNKNOWN_TAGS)`,
        "CamemWarning",
      );
    }
  }
}

function unknownTagsOf(steps: readonly Step[], treatment: TreatmentOf): string[] {
  const discarded = steps.filter(({ action }) => action === "discard").map(({ group }) => group);
  return tagsOf(discarded).filter((tag) => treatment(tag).isUnknown);
}
