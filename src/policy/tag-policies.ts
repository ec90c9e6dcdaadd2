/** What each sleep level does to the memory of each tag. */

import Type, { type Static } from "typebox";
import { CamemError } from "../errors.ts";
import type { Native } from "../ffi/index.ts";
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
  /** True when a wake-up zeroes memory of the tag whose content was lost; by default it is undefined. */
  zero: optional(Flag),
});

/** What each sleep level does to a tag. */
export interface TagPolicy extends Static<typeof TagPolicy> {}

const TagPolicyChanges = Type.Partial(TagPolicy, { additionalProperties: false });

/** Changes to a tag's policy; properties that are left out keep their value. */
export type TagPolicyChanges = { readonly [Property in keyof TagPolicy]?: TagPolicy[Property] | undefined };

const discardPolicy: TagPolicy = { 1: "discard", 2: "discard" };
const offloadPolicy: TagPolicy = { 1: "offload", 2: "offload" };
const keepPolicy: TagPolicy = { 1: "keep", 2: "keep" };

/** The policies that every process begins with. */
export const presetPolicies: ReadonlyMap<string, TagPolicy> = new Map([
  [defaultTag, discardPolicy],
  ["weights", { 1: "offload", 2: "discard" }],
  ["buffers", offloadPolicy],
  ["kv_cache", discardPolicy],
  [persistentTag, keepPolicy],
]);

/** The policies that an engine under the preload library begins with. Its rules name the tags after what happens to them. */
export const enginePolicies: ReadonlyMap<string, TagPolicy> = new Map([
  [defaultTag, offloadPolicy],
  ["immutable", { ...offloadPolicy, immutable: true }],
  ["discard", discardPolicy],
  [persistentTag, keepPolicy],
]);

const actions: readonly TagAction[] = ["keep", "offload", "discard"];

/**
 * A policy as the word that the shim keeps for a tag: bits 0 and 1 for level 1, 2 and 3 for level 2, 4 for `immutable`, 5 where
 * one is set, 6 for `zero`.
 */
function encodePolicy(policy: TagPolicy): number {
  const isDefined = 1 << 5;
  const immutable = policy.immutable ? 1 << 4 : 0;
  const zero = policy.zero ? 1 << 6 : 0;
  return zero | isDefined | immutable | (actions.indexOf(policy[2]) << 2) | actions.indexOf(policy[1]);
}

/** There are fewer policies than tags. */
const policiesByWord = new Map<number, TagPolicy>();

function decodePolicy(word: number): TagPolicy | undefined {
  const known = policiesByWord.get(word);
  if (known !== undefined) return known;
  const [first, second] = [actions[word & 3], actions[(word >> 2) & 3]];
  if (word === 0 || first === undefined || second === undefined) return undefined;
  const policy = { 1: first, 2: second, immutable: (word & (1 << 4)) !== 0, zero: (word & (1 << 6)) !== 0 };
  policiesByWord.set(word, policy);
  return policy;
}

/** Policies by tag. */
export interface PolicyLookup {
  /** @param id the shim's number of the tag, where it is known: saves a look-up for each of many tags */
  get(tag: string, id?: number): TagPolicy | undefined;
}

/** The policies of the process's tags, which all Workers share. */
export class TagPolicies {
  readonly #native: Native;
  readonly #tagId: (tag: string) => number;
  readonly #presets: ReadonlyMap<string, TagPolicy>;

  /** @param tagId the shim's number of a tag */
  constructor(native: Native, tagId: (tag: string) => number, presets = presetPolicies) {
    this.#native = native;
    this.#presets = presets;
    this.#tagId = tagId;
  }

  get(tag: string): TagPolicy | undefined {
    return decodePolicy(this.#native.tagPolicy(this.#tagId(tag))) ?? this.#presets.get(tag);
  }

  /** All policies as they are now, read at once: faster than {@link get} for many tags. */
  snapshot(): PolicyLookup {
    const words = this.#native.tagPolicies();
    return {
      get: (tag, id = this.#tagId(tag)) => {
        const word = words[id];
        // A tag that is new since has its policy in the table only.
        return word === undefined ? this.get(tag) : (decodePolicy(word) ?? this.#presets.get(tag));
      },
    };
  }

  isImmutable(tag: string): boolean {
    return this.get(tag)?.immutable ?? false;
  }

  /** @throws CamemError `INVALID_TAG`, `INVALID_ARGUMENT`, `BUFFER_ASLEEP` or `BUFFER_MOVING` */
  define(tag: string, changes: TagPolicyChanges): void {
    checkTag(tag);
    if (tag === persistentTag)
      throw new CamemError("INVALID_TAG", `the tag "${persistentTag}" is always kept; define another tag`);
    validate(TagPolicyChanges, changes, "defineTag", "INVALID_ARGUMENT", {
      labels: { 1: "the action of level 1", 2: "the action of level 2" },
    });
    const id = this.#tagId(tag);
    // Another Worker may define the tag meanwhile.
    while (!this.#tryDefine(tag, id, changes));
  }

  #tryDefine(tag: string, id: number, changes: TagPolicyChanges): boolean {
    const word = this.#native.tagPolicy(id);
    const existing = decodePolicy(word) ?? this.#presets.get(tag) ?? discardPolicy;
    const wasImmutable = existing.immutable ?? false;
    const immutable = changes.immutable ?? wasImmutable;
    if (immutable !== wasImmutable) this.#native.setTagImmutable(id, tag, immutable);
    const zero = changes.zero ?? existing.zero;
    const policy = { 1: changes[1] ?? existing[1], 2: changes[2] ?? existing[2], immutable, zero };
    return this.#native.setTagPolicy(id, word, encodePolicy(policy));
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
interface TagTreatment {
  readonly action: TagAction;
  readonly immutable: boolean;
  /** True when the tag has no policy, so that the action follows from `unknownTags`. */
  readonly isUnknown: boolean;
}

/** The treatment of a tag, by its name and, where it is known, the shim's number of it. */
export type TreatmentOf = (tag: string, id?: number) => TagTreatment;

/** What a sleep does to the memory of each tag. It never touches `sleep_persistent`. */
export function treatmentOf(
  { level = defaultLevel, offloadTags, tags }: SleepSelection,
  policies: PolicyLookup,
  unknownTags: "discard" | "offload" | "refuse" = "discard",
): TreatmentOf {
  const selected = tags && new Set(tags);
  const offloaded = offloadTags && new Set(offloadTags);
  const actionOf = (tag: string, policy: TagPolicy): TagAction => {
    if (level === 0 || tag === persistentTag || selected?.has(tag) === false) return "keep";
    if (offloaded !== undefined) return offloaded.has(tag) ? "offload" : "discard";
    return policy[level];
  };
  return (tag, id) => {
    const own = policies.get(tag, id);
    const policy = own ?? (unknownTags === "offload" ? offloadPolicy : discardPolicy);
    return {
      action: actionOf(tag, policy),
      immutable: policy.immutable ?? false,
      isUnknown: own === undefined && offloaded === undefined,
    };
  };
}
