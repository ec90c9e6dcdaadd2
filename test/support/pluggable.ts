/** `my_malloc` and `my_free` of the shipped shim, called as an engine calls them. */

import { shimPath } from "../../src/ffi/index.ts";
import { openLibrary } from "./runtime.ts";

export function openPluggable() {
  const { my_malloc, my_free } = openLibrary(shimPath, {
    my_malloc: { args: ["i64", "i32", "ptr"], returns: "u64" },
    my_free: { args: ["u64", "i64", "i32", "ptr"], returns: "void" },
  });
  return {
    /** Returns 0 for null. */
    malloc: (sizeBytes: number, device: number): number => Number(my_malloc(sizeBytes, device, null)),
    free: (address: number, sizeBytes: number, device: number): void =>
      void my_free(address, sizeBytes, device, null),
  };
}
