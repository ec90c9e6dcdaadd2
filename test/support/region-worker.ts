/** A Worker that stays in a `useMemoryPool` body until it is terminated. Reports the tags of its native allocation. */

import { CaMemAllocator } from "camem";
import { openPluggable } from "./pluggable.ts";

declare const self: Worker;

const allocator = CaMemAllocator.getInstance();
const pluggable = openPluggable();

void allocator.useMemoryPool("kv_cache", async () => {
  const address = pluggable.malloc(1, 0);
  const tags = Object.keys(allocator.usage());
  pluggable.free(address, 1, 0);
  self.postMessage(tags);
  await new Promise(() => undefined);
});
