import Type from "typebox";
import { CamemError, formatValue } from "../errors.ts";
import { validate } from "../options/validate.ts";
import type { TagAction, TagPolicy } from "./tags.ts";
import { checkTag, discardPolicy, persistentTag } from "./tags.ts";

/** 0: no memory moves. 1: weights and buffers to the host, the rest discarded. 2: all discarded but buffers. */
export type SleepLevel = 0 | 1 | 2;

const Tags = Type.Array(Type.String(), { description: "an array of tag names" });
const Signal = Type.Unsafe<AbortSignal>(Type.Object({}, { description: "an AbortSignal" }));
const Callback = Type.Unsafe<unknown>(Type.Unknown());

export const SleepRequest = Type.Object(
  {
    level: Type.Optional(
      Type.Union([Type.Literal(0), Type.Literal(1), Type.Literal(2)], { description: "0, 1 or 2" }),
    ),
    offloadTags: Type.Optional(Tags),
    tags: Type.Optional(Tags),
    signal: Type.Optional(Signal),
    onProgress: Type.Optional(Callback),
  },
  { additionalProperties: false },
);

export const WakeRequest = Type.Object(
  { tags: Type.Optional(Tags), signal: Type.Optional(Signal), onProgress: Type.Optional(Callback) },
  { additionalProperties: false },
);

/** Which tags a sleep concerns and where their content goes. */
export interface SleepSelection {
  readonly level?: SleepLevel | undefined;
  readonly offloadTags?: readonly string[] | undefined;
  readonly tags?: readonly string[] | undefined;
}

function checkControl(request: { signal?: unknown; onProgress?: unknown }): void {
  if (request.signal !== undefined && !(request.signal instanceof AbortSignal))
    throw new CamemError(
      "INVALID_ARGUMENT",
      `signal is ${formatValue(request.signal)}; it must be an AbortSignal`,
    );
  if (request.onProgress !== undefined && typeof request.onProgress !== "function")
    throw new CamemError(
      "INVALID_ARGUMENT",
      `onProgress is ${formatValue(request.onProgress)}; it must be a function`,
    );
}

export function unknownTag(tag: string): CamemError {
  return new CamemError(
    "UNKNOWN_TAG",
    `there is no tag ${formatValue(tag)}; usage (GET /camem/usage) lists those in use, and defineTag() makes one known`,
  );
}

function checkTags(tags: readonly string[] | undefined, isKnown: (tag: string) => boolean): void {
  for (const tag of tags ?? []) {
    checkTag(tag);
    if (isKnown(tag)) continue;
    throw unknownTag(tag);
  }
}

/** @throws CamemError `UNKNOWN_LEVEL`, `INVALID_TAG`, `UNKNOWN_TAG` or `INVALID_ARGUMENT` */
export function checkSleepRequest(
  request: unknown,
  isKnown: (tag: string) => boolean,
  method = "sleep",
): void {
  validate(SleepRequest, request, `the options of ${method}`, "INVALID_ARGUMENT", {
    codes: { level: "UNKNOWN_LEVEL", tags: "INVALID_TAG", offloadTags: "INVALID_TAG" },
  });
  checkControl(request);
  checkTags(request.tags, isKnown);
  checkTags(request.offloadTags, isKnown);
  if (request.level !== undefined && request.offloadTags !== undefined)
    throw new CamemError(
      "INVALID_ARGUMENT",
      "give level or offloadTags, not both: a level already says which tags are offloaded",
    );
}

/** @throws CamemError `INVALID_TAG`, `UNKNOWN_TAG` or `INVALID_ARGUMENT` */
export function checkWakeRequest(request: unknown, isKnown: (tag: string) => boolean): void {
  validate(WakeRequest, request, "the options of wakeUp", "INVALID_ARGUMENT", {
    codes: { tags: "INVALID_TAG" },
  });
  checkControl(request);
  checkTags(request.tags, isKnown);
}

/** What is to become of a tag's memory. */
export interface TagTreatment {
  readonly action: TagAction;
  readonly immutable: boolean;
}

/** What a sleep does to the memory of each tag. `sleep_persistent` is kept whatever is asked for. */
export function treatmentOf(
  { level = 1, offloadTags, tags }: SleepSelection,
  policies: ReadonlyMap<string, TagPolicy>,
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
