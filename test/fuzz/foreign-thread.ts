/** A thread that calls only `my_malloc` and `my_free`, like the threads of an engine. */

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
