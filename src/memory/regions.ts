import { AsyncLocalStorage } from "node:async_hooks";
import { types } from "node:util";
import * as native from "../ffi/index.ts";

/** The scope of one `useMemoryPool` body. */
interface Region {
  readonly tag: string;
  readonly token: number;
  /** The region that the body was called in. */
  readonly parent: Region | undefined;
  isOpen: boolean;
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  const mayHaveProperties = (typeof value === "object" && value !== null) || typeof value === "function";
  return mayHaveProperties && "then" in value && typeof value.then === "function";
}

/** The bodies of `useMemoryPool`: which tag allocations inside them carry. */
export class Regions {
  readonly #current = new AsyncLocalStorage<Region>();

  /** The tag of the region that this code runs in; undefined outside every region. */
  get tag(): string | undefined {
    return this.#current.getStore()?.tag;
  }

  /**
   * Calls `body` in a region of `tag`, which lasts until `body` returns or its promise settles. Native allocations
   * (`my_malloc`) carry the tag meanwhile.
   *
   * @throws CamemError `STATE_CONFLICT` while a region of another tag is open that does not enclose this call; a rejection,
   * where `body` is an async function
   */
  run<Argument, T>(tag: string, tagId: number, body: (argument: Argument) => T, argument: Argument): T {
    const parent = this.#innermostOpen();
    let region: Region;
    try {
      region = { tag, token: native.enterRegion(tagId, tag, parent?.token), parent, isOpen: true };
    } catch (refusal) {
      if (types.isAsyncFunction(body)) return Promise.reject(refusal) as T;
      throw refusal;
    }
    let isPending = false;
    try {
      const result = this.#current.run(region, body, argument);
      // Reading the property "then" of a foreign object may throw.
      isPending = isThenable(result);
      return isPending ? (leaveOnceSettled(result, region) as T) : result;
    } finally {
      if (!isPending) leave(region);
    }
  }

  #innermostOpen(): Region | undefined {
    let region = this.#current.getStore();
    while (region !== undefined && !region.isOpen) region = region.parent;
    return region;
  }
}

async function leaveOnceSettled<T>(pending: T, region: Region): Promise<Awaited<T>> {
  try {
    return await pending;
  } finally {
    leave(region);
  }
}

function leave(region: Region): void {
  region.isOpen = false;
  native.leaveRegion(region.token);
}
