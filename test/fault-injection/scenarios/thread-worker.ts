/** The Worker of threads.ts: allocates and frees native memory on both devices. */

import assert from "node:assert/strict";
import { mebibyte, pluggable } from "./buffers.ts";

/** Given in the environment variable STRICT_WORKER. */
export type Role = "allocate" | "allocate on message";

const rounds = 300;

async function allocate(): Promise<void> {
  const held: { address: number; device: number }[] = [];
  for (let round = 0; round < rounds; round++) {
    const device = round % 2;
    const address = Number(pluggable.my_malloc(1 + (round % 3) * mebibyte, device, null));
    assert(address > 0);
    held.push({ address, device });
    const oldest = held.length > 3 ? held.shift() : undefined;
    if (oldest) pluggable.my_free(oldest.address, 1, oldest.device, null);
    if (round % 10 === 0) await Bun.sleep(1);
  }
  for (const { address, device } of held) pluggable.my_free(address, 1, device, null);
  postMessage("ended");
}

/** Outlives any session of the allocator, and allocates on the devices that a message names. */
function allocateOnMessage(): void {
  addEventListener("message", ({ data }: MessageEvent<readonly number[]>) => {
    for (const device of data) {
      const address = Number(pluggable.my_malloc(mebibyte, device, null));
      assert(address > 0);
      pluggable.my_free(address, mebibyte, device, null);
    }
    postMessage("allocated");
  });
}

if (process.env["STRICT_WORKER"] === "allocate on message") allocateOnMessage();
else await allocate();
