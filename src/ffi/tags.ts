/** Tag numbers, regions of tags, and whether a tag's content is final. */

import { exports } from "./library.ts";
import { check, checkStatus, firstResult, takeFirst, takeFirstU32 } from "./status.ts";
import { Status } from "./symbols.gen.ts";

/** Bytes of the longest tag name in UTF-8. */
export const longestTagBytes = 64;

/** The shim's number of a tag name. */
export function internTag(name: string): number {
  const bytes = Buffer.from(name);
  check(
    () => `use the tag "${name}"`,
    () => exports().camem_tag_intern(bytes, bytes.length, firstResult),
  );
  return takeFirstU32();
}

export function tagName(tag: number): string {
  const bytes = new Uint8Array(longestTagBytes);
  check(
    () => `name the tag ${tag}`,
    () => exports().camem_tag_name(tag, bytes, firstResult),
  );
  return new TextDecoder().decode(bytes.subarray(0, takeFirst()));
}

/** Opens a region whose tag native allocations carry; returns the token that closes it. */
export function enterRegion(tag: number): number {
  check("enter a memory pool", () => exports().camem_region_enter(tag, firstResult));
  return takeFirst();
}

/** Closes a region, unless closing the allocator has closed it. */
export function leaveRegion(token: number): void {
  const closed = [Status.not_open, Status.invalid_argument];
  checkStatus("leave a memory pool", exports().camem_region_leave(token), closed);
}

/** Declares the content of a tag's segments final, or ends that. */
export function sealTag(tag: number, name: string, sealed: boolean): void {
  const attempt = sealed ? `make "${name}" immutable` : `mark "${name}" as dirty`;
  check(attempt, () => exports().camem_tag_seal(tag, Number(sealed)));
}
