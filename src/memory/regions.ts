import { AsyncLocalStorage } from "node:async_hooks";
import * as native from "../ffi/index.ts";

function isThenable(value: unknown): value is PromiseLike<unknown> {
  const mayHaveProperties = (typeof value === "object" && value !== null) || typeof value === "function";
  return mayHaveProperties && "then" in value && typeof value.then === "function";
}

async function leaveOnceSettled<T>(pending: T, leave: () => void): Promise<Awaited<T>> {
  try {
    return await pending;
  } finally {
    leave();
  }
}

/** The bodies of `useMemoryPool`: which tag allocations inside them carry. */
export class Regions {
  readonly #tag = new AsyncLocalStorage<string>();

  /** The tag of the region that this code runs in; undefined outside every region. */
  get tag(): string | undefined {
    return this.#tag.getStore();
  }

  /**
   * Calls `body` in a region of `tag`, which lasts until `body` returns or its promise settles. Native allocations
   * (`my_malloc`) carry the tag meanwhile.
   */
  run<T>(tag: string, tagId: number, body: () => T): T {
    const token = native.enterRegion(tagId);
    const leave = () => native.leaveRegion(token);
    let isPending = false;
    try {
      const result = this.#tag.run(tag, body);
      // Reading the property "then" of a foreign object may throw.
      isPending = isThenable(result);
      return isPending ? (leaveOnceSettled(result, leave) as T) : result;
    } finally {
      if (!isPending) leave();
    }
  }
}
