/** Tag numbers, regions of tags, and whether a tag's content is immutable. */

import { exports } from "./library.ts";
import { check, checkStatus, firstResult, takeFirst, takeFirstU32 } from "./status.ts";
import { longestTagBytes, Status } from "./symbols.gen.ts";

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

/** Makes the content of a tag's segments immutable, or ends that. */
export function setTagImmutable(tag: number, name: string, immutable: boolean): void {
  const attempt = immutable ? `make "${name}" immutable` : `mark "${name}" as dirty`;
  check(attempt, () => exports().camem_tag_set_immutable(tag, Number(immutable)));
}
