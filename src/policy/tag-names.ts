import { CamemError, formatValue } from "../errors.ts";
import { longestTagBytes } from "../ffi/index.ts";

/** The tag of memory that is allocated outside every `useMemoryPool` body. */
export const defaultTag = "default";

/** No sleep touches memory under this tag. */
export const persistentTag = "sleep_persistent";

/** Values by tag, without the properties that objects inherit: a tag may be named `constructor` or `__proto__`. */
export function recordByTag<T>(entries: Iterable<readonly [string, T]>): Record<string, T> {
  const record: Record<string, T> = Object.create(null);
  for (const [tag, value] of entries) record[tag] = value;
  return record;
}

/** @throws CamemError `INVALID_TAG` for anything but a name of 1 to 64 bytes of UTF-8 without control characters */
export function checkTag(tag: unknown): asserts tag is string {
  const fits = typeof tag === "string" && tag !== "" && !/\p{Cc}/u.test(tag) && tag.isWellFormed();
  if (fits && Buffer.byteLength(tag) <= longestTagBytes) return;
  throw new CamemError(
    "INVALID_TAG",
    `the tag is ${formatValue(tag)}; it must be a name of 1 to ${longestTagBytes} bytes such as "weights"`,
  );
}
