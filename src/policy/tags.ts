import Type from "typebox";
import { CamemError, formatValue } from "../errors.ts";

/** What a sleep does to the memory of a tag: leave it, move its content to the host, or drop its content. */
export type TagAction = "keep" | "offload" | "discard";

/** What each sleep level does to a tag. */
export interface TagPolicy {
  readonly 1: TagAction;
  readonly 2: TagAction;
  /**
   * The content is final once it is loaded, as that of inference weights: it is backed up once, and later sleeps only unmap.
   * Host memory keeps the backup while it is awake. It counts as final from `defineTag` on for memory that there is by then, for
   * other memory from its first sleep on; from then on writes are refused, until `markDirty`.
   */
  readonly immutable?: boolean;
}

const Action = Type.Union([Type.Literal("keep"), Type.Literal("offload"), Type.Literal("discard")], {
  description: '"keep", "offload" or "discard"',
});

export const PartialTagPolicy = Type.Object(
  {
    1: Type.Optional(Action),
    2: Type.Optional(Action),
    immutable: Type.Optional(Type.Boolean({ description: "true or false" })),
  },
  { additionalProperties: false },
);

/** The tag of memory that is allocated outside of every region. */
export const defaultTag = "default";

/** Memory under this tag is never touched by a sleep. */
export const persistentTag = "sleep_persistent";

/** The policy of every tag that has no other. */
export const discardPolicy: TagPolicy = { 1: "discard", 2: "discard" };

export const presetPolicies: Readonly<Record<string, TagPolicy>> = {
  [defaultTag]: discardPolicy,
  weights: { 1: "offload", 2: "discard" },
  buffers: { 1: "offload", 2: "offload" },
  kv_cache: discardPolicy,
  [persistentTag]: { 1: "keep", 2: "keep" },
};

export const longestTagBytes = 64;

/** @throws CamemError `INVALID_TAG` for anything but a name of 1 to 64 bytes of UTF-8 without control characters */
export function checkTag(tag: unknown): asserts tag is string {
  const fits = typeof tag === "string" && tag !== "" && !/\p{Cc}/u.test(tag) && tag.isWellFormed();
  if (fits && Buffer.byteLength(tag) <= longestTagBytes) return;
  throw new CamemError(
    "INVALID_TAG",
    `the tag is ${formatValue(tag)}; it must be a name of 1 to ${longestTagBytes} bytes such as "weights"`,
  );
}
