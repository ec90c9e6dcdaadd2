import { CamemError } from "../../errors.ts";
import { persistentTag } from "../../policy/tag-names.ts";
import type { ControlledAllocator } from "./engine-tags.ts";

/** An open controller and its tags. */
interface TagOwner {
  readonly engine: string;
  /** Undefined when all tags of the allocator belong to the engine. */
  readonly tags: readonly string[] | undefined;
}

const ownersOf = new WeakMap<ControlledAllocator, Set<TagOwner>>();

/**
 * Gives the allocator's `tags`, or all of them, to the controller of `engine`. Returns a function that releases them.
 *
 * @throws CamemError `STATE_CONFLICT` when an open controller has one of them: it would admit requests to sleeping memory
 */
export function takeTags(
  allocator: ControlledAllocator,
  engine: string,
  tags: readonly string[] | undefined,
): () => void {
  const owners = ownersOf.get(allocator) ?? new Set();
  for (const owner of owners) {
    const shared = sharedTags(owner.tags, tags);
    if (shared?.length === 0) continue;
    throw new CamemError(
      "STATE_CONFLICT",
      `the open controller of the engine ${owner.engine} already has ${shared?.join(", ") ?? "all tags"} of this allocator; give each controller tags of its own, or close that one first`,
    );
  }
  const owner = { engine, tags };
  owners.add(owner);
  ownersOf.set(allocator, owners);
  return () => owners.delete(owner);
}

/** Undefined means all tags. No sleep moves `sleep_persistent`, so engines may share it. */
function sharedTags(some: TagOwner["tags"], others: TagOwner["tags"]): TagOwner["tags"] {
  const shared = some === undefined || others === undefined ? (some ?? others) : intersection(some, others);
  return shared?.filter((tag) => tag !== persistentTag);
}

function intersection(some: readonly string[], others: readonly string[]): readonly string[] {
  return some.filter((tag) => others.includes(tag));
}
