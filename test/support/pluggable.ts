/** `my_malloc` and `my_free` of the shipped shim, called as an engine calls them. */

import { dlopen, type Pointer } from "bun:ffi";
import { shimPath } from "../../src/ffi/index.ts";

export function openPluggable() {
  const { my_malloc, my_free } = dlopen(shimPath, {
    my_malloc: { args: ["i64", "i32", "ptr"], returns: "ptr" },
    my_free: { args: ["u64", "i64", "i32", "ptr"], returns: "void" },
  }).symbols;
  return {
    /** Returns 0 for null. */
    malloc: (sizeBytes: number, device: number): number =>
      (my_malloc(sizeBytes, device, null) as Pointer | null) ?? 0,
    free: (address: number, sizeBytes: number, device: number): void =>
      void my_free(address, sizeBytes, device, null),
  };
}
