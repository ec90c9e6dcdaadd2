/** Ordered wake-ups: what comes back first, and who waits for it. */

import { CamemError, formatValue } from "../errors.ts";
import type * as native from "../ffi/index.ts";
import { DeviceBuffer } from "../memory/buffer.ts";
import type { SegmentTable } from "../memory/table.ts";
import { custom } from "../options/schemas.ts";
import { persistentTag } from "../policy/tag-names.ts";

/** Memory that is used together: a buffer, all memory under a tag, or several of these. */
export type OrderedMemory = DeviceBuffer | string | readonly (DeviceBuffer | string)[];

function isMemory(value: unknown): boolean {
  return typeof value === "string" || value instanceof DeviceBuffer;
}

function isOrderedMemory(value: unknown): value is OrderedMemory {
  return isMemory(value) || (Array.isArray(value) && value.every(isMemory));
}

/** The schema of the option `order`. */
export const Order = custom<"loaded" | readonly OrderedMemory[]>(
  '"loaded", or an array of tags, buffers and lists of these, in the order of their use',
  (value) => value === "loaded" || (Array.isArray(value) && value.length > 0 && value.every(isOrderedMemory)),
);

const partsOf = (memory: OrderedMemory): readonly (DeviceBuffer | string)[] =>
  typeof memory === "string" || memory instanceof DeviceBuffer ? [memory] : memory;

/** The tags that an order names, except that of memory that never sleeps. */
export function tagsOfOrder(order: "loaded" | readonly OrderedMemory[]): ReadonlySet<string> {
  if (order === "loaded") return new Set();
  const tags = order.flatMap(partsOf).map((part) => (typeof part === "string" ? part : part.tag));
  return new Set(tags.filter((tag) => tag !== persistentTag));
}

/** @throws CamemError `INVALID_ARGUMENT` */
export function checkMemory(memory: unknown): void {
  if (isOrderedMemory(memory)) return;
  throw new CamemError(
    "INVALID_ARGUMENT",
    `the memory is ${formatValue(memory)}; it must be a buffer, a tag, or a list of these`,
  );
}

/** The memory with other tags. */
export function withTags(memory: OrderedMemory, tagOf: (tag: string) => string): OrderedMemory {
  if (typeof memory === "string") return tagOf(memory);
  if (memory instanceof DeviceBuffer) return memory;
  return memory.map((part) => (typeof part === "string" ? tagOf(part) : part));
}

/** Somebody who waits for memory. */
interface Waiter {
  readonly memory: OrderedMemory;
  /** The last of the groups that the memory is in; undefined before the plan is made. */
  group: number | undefined;
  /** Returns true once there is nothing to wait for any more. */
  readonly isServed: (group: number) => boolean;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** How far the groups of one wake-up are. Without an order all memory is one group. */
export class WakeOrder {
  readonly #native: native.Native;
  readonly #table: SegmentTable;
  readonly #checkTag: (tag: string) => void;
  #tags: readonly string[] | undefined;
  #order: "loaded" | readonly OrderedMemory[] | undefined;
  /** The group of each segment, as the plan that runs has it. */
  #places: ReadonlyMap<number, number> = new Map();
  #groups = 0;
  #ticket: number | undefined;
  #readyGroups = 0;
  #outcome: { readonly error: unknown } | "done" | undefined;
  #isFailing = false;
  readonly #waiters = new Set<Waiter>();
  readonly #failureListeners = new Set<(error: unknown) => void>();

  /** @param checkTag throws for a tag that the allocator does not know */
  constructor(shim: native.Native, table: SegmentTable, checkTag: (tag: string) => void) {
    this.#native = shim;
    this.#table = table;
    this.#checkTag = checkTag;
  }

  /** What the caller asked for: an order, and only some tags. */
  ask(order: "loaded" | readonly OrderedMemory[] | undefined, tags: readonly string[] | undefined): void {
    this.#order = order;
    this.#tags = tags;
  }

  /** The groups of the segments that there are now; undefined without an order. */
  places(): native.PlanOrder | undefined {
    if (this.#order === undefined) return undefined;
    const segments = this.#native.snapshot();
    const ids =
      this.#order === "loaded"
        ? segments.map(({ segmentId }) => [segmentId])
        : this.#order.map((memory) => this.#segmentsOf(memory, segments));
    const places = new Map<number, number>();
    for (const [group, members] of ids.entries())
      for (const id of members) if (!places.has(id)) places.set(id, group);
    this.#places = places;
    // What the order does not name is in a last group of its own.
    this.#groups = ids.length + 1;
    for (const waiter of this.#waiters) waiter.group = this.#groupOf(waiter.memory);
    return { places, groups: this.#groups };
  }

  #segmentsOf(memory: OrderedMemory, segments: readonly native.SegmentSnapshot[]): number[] {
    return partsOf(memory).flatMap((part) => {
      if (typeof part !== "string") return [part.place.segment.segmentId];
      const tag = this.#table.tagId(part);
      return segments.filter((segment) => segment.tag === tag).map(({ segmentId }) => segmentId);
    });
  }

  /** True from the moment on when the plan undoes what it has done, and after a failure. */
  get isFailing(): boolean {
    return this.#isFailing;
  }

  /** Calls `listener` when the wake-up has failed, before those who wait hear of it. */
  onFailure(listener: (error: unknown) => void): void {
    this.#failureListeners.add(listener);
  }

  /** The plan is this far. */
  advance(ticket: number, readyGroups: number): void {
    this.#ticket = ticket;
    this.#isFailing ||= readyGroups < this.#readyGroups;
    this.#readyGroups = readyGroups;
    this.#serveAll();
  }

  /** The wake-up has ended: well, or with an error. */
  end(outcome: { readonly error: unknown } | "done"): void {
    this.#outcome = outcome;
    if (outcome !== "done") {
      this.#isFailing = true;
      for (const listener of this.#failureListeners) listener(outcome.error);
    }
    this.#serveAll();
  }

  /** Those whose memory comes first are first. */
  #serveAll(): void {
    if (this.#waiters.size === 0) return;
    const waiters = [...this.#waiters].sort((one, other) => (one.group ?? 0) - (other.group ?? 0));
    for (const waiter of waiters) this.#serve(waiter);
  }

  /** Resolves when memory has its content. */
  ready(memory: OrderedMemory): Promise<void> {
    return this.#wait(memory, () => false);
  }

  /** Resolves when `stream` waits for the copies of memory, or has nothing to wait for. */
  streamWait(stream: number, memory: OrderedMemory): Promise<void> {
    return this.#wait(
      memory,
      (group) =>
        this.#ticket !== undefined && this.#native.streamWait?.(this.#ticket, group, stream) === true,
    );
  }

  #wait(memory: OrderedMemory, isServed: Waiter["isServed"]): Promise<void> {
    checkMemory(memory);
    for (const part of partsOf(memory)) this.#checkPart(part);
    if (this.#outcome === "done") return Promise.resolve();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const group = this.#groups === 0 ? undefined : this.#groupOf(memory);
    const waiter: Waiter = { memory, group, isServed, resolve, reject };
    this.#waiters.add(waiter);
    this.#serve(waiter);
    return promise;
  }

  /** @throws CamemError for memory that this wake-up does not bring back */
  #checkPart(part: DeviceBuffer | string): void {
    if (typeof part === "string") this.#checkTag(part);
    else if (part.isFreed) throw new CamemError("BUFFER_FREED", "the buffer was freed");
    const tag = typeof part === "string" ? part : part.tag;
    if (this.#tags === undefined || this.#tags.includes(tag) || tag === persistentTag) return;
    throw new CamemError(
      "INVALID_ARGUMENT",
      `the wake-up has tags, and leaves memory under ${formatValue(tag)} asleep; add that tag`,
    );
  }

  #serve(waiter: Waiter): void {
    try {
      if (!this.#isServed(waiter)) return;
      waiter.resolve();
    } catch (error) {
      waiter.reject(error);
    }
    this.#waiters.delete(waiter);
  }

  /** @throws what the wake-up has failed with */
  #isServed({ group, isServed }: Waiter): boolean {
    if (this.#outcome === "done") return true;
    if (this.#outcome !== undefined) throw this.#outcome.error;
    if (this.#ticket === undefined || group === undefined) return false;
    return group < this.#readyGroups || isServed(group);
  }

  /** The last of the groups that memory is in. */
  #groupOf(memory: OrderedMemory): number {
    const hasTag = partsOf(memory).some((part) => typeof part === "string");
    const segments = hasTag ? this.#native.snapshot() : [];
    const groups = this.#segmentsOf(memory, segments).map((id) => this.#places.get(id) ?? this.#groups - 1);
    return Math.max(0, ...groups);
  }
}
