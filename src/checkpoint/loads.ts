import type { CaMemAllocator } from "../allocator.ts";

/** The loads under one tag that overlap. */
interface TagLoads {
  count: number;
  /** True once any of them has failed, or has loaded a part of the tag's tensors. */
  incomplete: boolean;
}

/** The loads in progress of each allocator, by tag. */
const loadsByAllocator = new WeakMap<CaMemAllocator, Map<string, TagLoads>>();

interface LoadEnd {
  readonly succeeded: boolean;
  /** The tags that were loaded whole; none by default. */
  readonly wholeTags?: ReadonlySet<string>;
}

/**
 * Notes that a checkpoint load under `tags` begins; call the result when it ends. A tag's content becomes immutable when its last
 * load ends, unless one of the overlapping loads failed or left a part out: the caller loads again then. Once no load is left, the
 * allocator prepares the next sleep if its `prepareOnLoad` says so.
 */
export function beginLoad(allocator: CaMemAllocator, tags: ReadonlySet<string>): (end: LoadEnd) => void {
  const loads = loadsByAllocator.get(allocator) ?? new Map<string, TagLoads>();
  loadsByAllocator.set(allocator, loads);
  for (const tag of tags) {
    const own = loads.get(tag) ?? { count: 0, incomplete: false };
    own.count++;
    loads.set(tag, own);
  }
  return ({ succeeded, wholeTags }) => {
    for (const tag of tags) {
      const own = loads.get(tag);
      if (own === undefined) continue;
      own.count--;
      own.incomplete ||= wholeTags?.has(tag) !== true;
      if (own.count > 0) continue;
      loads.delete(tag);
      if (!own.incomplete) allocator.makeLoadedImmutable(tag);
    }
    if (succeeded && loads.size === 0) allocator.prepareAfterLoad();
  };
}
