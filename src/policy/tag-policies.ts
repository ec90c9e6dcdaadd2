/** What each sleep level does to the memory of each tag. */

import Type, { type Static } from "typebox";
import { CamemError } from "../errors.ts";
import { closedObject, Flag, Level, optional, required, Tags } from "../options/schemas.ts";
import { validate } from "../options/validate.ts";
import { checkTag, defaultTag, persistentTag } from "./tag-names.ts";

/** 0: no memory moves. 1: weights and buffers move to the host, the rest is discarded. 2: all but buffers is discarded. */
export type SleepLevel = Static<typeof Level>;

/** The level of a sleep that names none. */
export const defaultLevel: SleepLevel = 1;

const Action = Type.Union([Type.Literal("keep"), Type.Literal("offload"), Type.Literal("discard")], {
  description: '"keep", "offload" or "discard"',
});

/** What a sleep does to the memory of a tag: leave it, move its content to the host, or drop its content. */
export type TagAction = Static<typeof Action>;

const TagPolicy = closedObject({
  /** What a sleep at level 1 does. */
  1: required(Action),
  /** What a sleep at level 2 does. */
  2: required(Action),
  /**
   * True when the content is immutable once loaded, like inference weights. Such memory is backed up once; later sleeps only
   * unmap it, and host memory keeps the backup while it is awake. Content becomes immutable with `defineTag` where memory exists
   * by then, else with the first sleep or checkpoint load. Final content refuses writes until `markDirty`.
   */
  immutable: optional(Flag),
});

/** What each sleep level does to a tag. */
export interface TagPolicy extends Static<typeof TagPolicy> {}

const TagPolicyChanges = Type.Partial(TagPolicy, { additionalProperties: false });

/** Changes to a tag's policy; properties that are left out keep their value. */
export type TagPolicyChanges = { readonly [Property in keyof TagPolicy]?: TagPolicy[Property] | undefined };

/** The policy of every tag without one. */
const discardPolicy: TagPolicy = { 1: "discard", 2: "discard" };

/** The policies that every allocator begins with. */
export const presetPolicies: Readonly<Record<string, TagPolicy>> = {
  [defaultTag]: discardPolicy,
  weights: { 1: "offload", 2: "discard" },
  buffers: { 1: "offload", 2: "offload" },
  kv_cache: discardPolicy,
  [persistentTag]: { 1: "keep", 2: "keep" },
};

/** The policies of an allocator's tags. */
export class TagPolicies {
  readonly #policies = new Map<string, TagPolicy>(Object.entries(presetPolicies));
  readonly #setImmutable: (tag: string, immutable: boolean) => void;

  /** @param setImmutable makes the content of a tag's memory immutable, or ends that; may refuse by throwing */
  constructor(setImmutable: (tag: string, immutable: boolean) => void) {
    this.#setImmutable = setImmutable;
  }

  get(tag: string): TagPolicy | undefined {
    return this.#policies.get(tag);
  }

  has(tag: string): boolean {
    return this.#policies.has(tag);
  }

  isImmutable(tag: string): boolean {
    return this.#policies.get(tag)?.immutable ?? false;
  }

  /** @throws CamemError `INVALID_TAG`, `INVALID_ARGUMENT`, or the refusal of `setImmutable` */
  define(tag: string, changes: TagPolicyChanges): void {
    checkTag(tag);
    if (tag === persistentTag)
      throw new CamemError("INVALID_TAG", `the tag "${persistentTag}" is always kept; define another tag`);
    const subject = 'a tag\'s policy, such as { 1: "offload", 2: "discard" },';
    validate(TagPolicyChanges, changes, subject, "INVALID_ARGUMENT");
    const existing = this.#policies.get(tag) ?? discardPolicy;
    const wasImmutable = this.isImmutable(tag);
    const immutable = changes.immutable ?? wasImmutable;
    if (immutable !== wasImmutable) this.#setImmutable(tag, immutable);
    this.#policies.set(tag, { 1: changes[1] ?? existing[1], 2: changes[2] ?? existing[2], immutable });
  }
}

export const SleepSelection = closedObject({
  /** How deep to sleep: 0, 1 or 2; by default 1. */
  level: optional(Level),
  /** Offload exactly these tags and discard the rest, instead of a level. */
  offloadTags: optional(Tags),
  /** Put only these tags to sleep; by default all. */
  tags: optional(Tags),
});

/** Which tags a sleep concerns and where their content goes. */
export interface SleepSelection extends Static<typeof SleepSelection> {}

/** What happens to a tag's memory in a sleep. */
export interface TagTreatment {
  readonly action: TagAction;
  readonly immutable: boolean;
}

/** What a sleep does to the memory of each tag. It never touches `sleep_persistent`. */
export function treatmentOf(
  { level = defaultLevel, offloadTags, tags }: SleepSelection,
  policies: Pick<ReadonlyMap<string, TagPolicy>, "get">,
): (tag: string) => TagTreatment {
  const actionOf = (tag: string, policy: TagPolicy): TagAction => {
    if (level === 0 || tag === persistentTag || (tags !== undefined && !tags.includes(tag))) return "keep";
    if (offloadTags !== undefined) return offloadTags.includes(tag) ? "offload" : "discard";
    return policy[level];
  };
  const known = new Map<string, TagTreatment>();
  return (tag) => {
    const existing = known.get(tag);
    if (existing) return existing;
    const policy = policies.get(tag) ?? discardPolicy;
    const treatment = { action: actionOf(tag, policy), immutable: policy.immutable ?? false };
    known.set(tag, treatment);
    return treatment;
  };
}
