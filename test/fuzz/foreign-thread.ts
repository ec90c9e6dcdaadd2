/** An OS thread of its own that knows nothing of the allocator but `my_malloc` and `my_free`, as an engine's threads do. */

import { openPluggable } from "../support/pluggable.ts";

declare const self: Worker;

export type ForeignCall =
  | { readonly call: "malloc"; readonly sizeBytes: number; readonly device: number }
  | { readonly call: "free"; readonly address: number; readonly sizeBytes: number; readonly device: number };

const pluggable = openPluggable();

self.onmessage = ({ data }: MessageEvent<ForeignCall>) => {
  if (data.call === "malloc") self.postMessage(pluggable.malloc(data.sizeBytes, data.device));
  else {
    pluggable.free(data.address, data.sizeBytes, data.device);
    self.postMessage(0);
  }
};
