/** Loads a checkpoint in a Worker, and closes its allocator meanwhile with `closes`. */

import { CaMemAllocator, loadSafetensors } from "camem";
import { callCount } from "../support/device.ts";

declare const self: Worker;

self.onmessage = async ({ data: { path, closes } }: MessageEvent<{ path: string; closes: boolean }>) => {
  const allocator = CaMemAllocator.getInstance();
  const before = callCount("aclrtMemcpy");
  const load = loadSafetensors(path, { allocator }).then(
    () => "resolved",
    (error) => `${error.code}: ${error.message}`,
  );
  while (callCount("aclrtMemcpy") === before) await new Promise(setImmediate);
  if (!closes) {
    self.postMessage("loading");
    await load;
    return;
  }
  await allocator.close();
  self.postMessage(await load);
};
