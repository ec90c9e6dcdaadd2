import { AsyncLocalStorage } from "node:async_hooks";
import * as native from "../ffi/index.ts";

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
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
    let result: T;
    try {
      result = this.#tag.run(tag, body);
    } catch (error) {
      leave();
      throw error;
    }
    if (!isThenable(result)) {
      leave();
      return result;
    }
    return Promise.resolve(result).finally(leave) as T;
  }
}
