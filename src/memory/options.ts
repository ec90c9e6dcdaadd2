/** The options of `malloc` and `memoryPool`. */

import type { Static } from "typebox";
import { closedObject, Device, optional, Tag } from "../options/schemas.ts";
import { validate } from "../options/validate.ts";

const MallocOptions = closedObject({
  /** The tag; by default that of the enclosing `useMemoryPool` body, else `default`. */
  tag: optional(Tag),
  /** The device number; by default the allocator's. */
  device: optional(Device),
});

/** Options of `malloc`. */
export interface MallocOptions extends Static<typeof MallocOptions> {}

const MemoryPoolOptions = closedObject({
  /** The device number; by default the allocator's. */
  device: optional(Device),
});

/** Options of `memoryPool`. */
export interface MemoryPoolOptions extends Static<typeof MemoryPoolOptions> {}

const report = { codes: { tag: "INVALID_TAG", device: "UNKNOWN_DEVICE" } } as const;

/** @throws CamemError `INVALID_ARGUMENT`, `INVALID_TAG` or `UNKNOWN_DEVICE` */
export function checkMallocOptions(options: MallocOptions): void {
  validate(MallocOptions, options, "malloc", "INVALID_ARGUMENT", report);
}

/** @throws CamemError `INVALID_ARGUMENT` or `UNKNOWN_DEVICE` */
export function checkMemoryPoolOptions(options: MemoryPoolOptions): void {
  validate(MemoryPoolOptions, options, "memoryPool", "INVALID_ARGUMENT", report);
}
