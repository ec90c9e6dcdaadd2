/** Tag numbers, the policies of tags, regions of tags, and whether a tag's content is immutable. */

import { CamemError } from "../errors.ts";
import type { SharedExports } from "./exports.ts";
import { exports } from "./library.ts";
import { check, checkStatus, firstResult, takeFirst, takeFirstU32 } from "./status.ts";
import { longestTagBytes, Status } from "./symbols.gen.ts";

/**
 * Opens a region whose tag native allocations carry; returns the token that closes it.
 *
 * @throws CamemError `STATE_CONFLICT` while a region of another tag is open that does not enclose `parent`
 */
export function enterRegion(tag: number, name: string, parent = 0): number {
  const status = exports().camem_region_enter(tag, parent, firstResult);
  if (status === Status.busy)
    throw new CamemError(
      "STATE_CONFLICT",
      `cannot enter the memory pool "${name}": a useMemoryPool body of another tag is running, and nothing would say which of the two a native allocation belongs to; await it first, or allocate with malloc({ tag }) or memoryPool(tag)`,
    );
  checkStatus("enter a memory pool", status);
  return takeFirst();
}

/** Closes a region, unless closing the allocator has closed it. */
export function leaveRegion(token: number): void {
  const closed = [Status.not_open, Status.invalid_argument];
  checkStatus("leave a memory pool", exports().camem_region_leave(token), closed);
}

/** Tag numbers, policies, and whether the content of a tag is immutable. */
export const tagCalls = (exports: () => SharedExports) => {
  return {
    /** The shim's number of a tag name. */
    internTag(name: string): number {
      const bytes = Buffer.from(name);
      check(
        () => `use the tag "${name}"`,
        () => exports().camem_tag_intern(bytes, bytes.length, firstResult),
      );
      return takeFirstU32();
    },

    /** True when the process has used or defined the tag. */
    isTag(name: string): boolean {
      const bytes = Buffer.from(name);
      const status = exports().camem_tag_find(bytes, bytes.length, firstResult);
      checkStatus("look up a tag", status, [Status.unknown_tag]);
      return status === Status.ok;
    },

    tagName(tag: number): string {
      const bytes = new Uint8Array(longestTagBytes);
      check(
        () => `name the tag ${tag}`,
        () => exports().camem_tag_name(tag, bytes, firstResult),
      );
      return new TextDecoder().decode(bytes.subarray(0, takeFirst()));
    },

    /** The word that the process keeps for a tag; 0 until one is set. */
    tagPolicy(tag: number): number {
      check("read the policy of a tag", () => exports().camem_tag_policy(tag, firstResult));
      return takeFirst();
    },

    /** Replaces a tag's word; false, with nothing changed, when it is no longer `expected`. */
    setTagPolicy(tag: number, expected: number, policy: number): boolean {
      const status = exports().camem_tag_set_policy(tag, expected, policy);
      checkStatus("set the policy of a tag", status, [Status.stale]);
      return status === Status.ok;
    },

    /** Makes the content of a tag's segments immutable, or ends that. */
    setTagImmutable(tag: number, name: string, immutable: boolean): void {
      const attempt = immutable ? `make "${name}" immutable` : `mark "${name}" as dirty`;
      check(attempt, () => exports().camem_tag_set_immutable(tag, Number(immutable)));
    },
  };
};
