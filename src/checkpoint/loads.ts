import type { CaMemAllocator } from "../allocator.ts";

/** The loads under one tag that overlap. */
interface TagLoads {
  count: number;
  /** True once any of them has failed. */
  failed: boolean;
}

/** The loads in progress of each allocator, by tag. */
const loadsByAllocator = new WeakMap<CaMemAllocator, Map<string, TagLoads>>();

/**
 * Notes that a checkpoint load under `tags` begins; call the result when it ends. A tag's content becomes final when its last
 * load ends, unless one of the overlapping loads failed: the caller loads again then. Once no load is left, the allocator
 * prepares the next sleep if its `prepareOnLoad` says so.
 */
export function beginLoad(
  allocator: CaMemAllocator,
  tags: ReadonlySet<string>,
): (succeeded: boolean) => void {
  const loads = loadsByAllocator.get(allocator) ?? new Map<string, TagLoads>();
  loadsByAllocator.set(allocator, loads);
  for (const tag of tags) {
    const own = loads.get(tag) ?? { count: 0, failed: false };
    own.count++;
    loads.set(tag, own);
  }
  return (succeeded) => {
    for (const tag of tags) {
      const own = loads.get(tag);
      if (own === undefined) continue;
      own.count--;
      own.failed ||= !succeeded;
      if (own.count > 0) continue;
      loads.delete(tag);
      if (!own.failed) allocator.setLoadedImmutable(tag);
    }
    if (succeeded && loads.size === 0) allocator.prepareAfterLoad();
  };
}
