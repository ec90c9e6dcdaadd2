/** A Worker that attaches to the allocator of its process and runs commands. */

import { CaMemAllocator, type DeviceBuffer } from "camem";

declare const self: Worker;

const allocator = CaMemAllocator.getInstance();
let buffer: DeviceBuffer | undefined;

const commands = {
  allocate: () => {
    buffer = allocator.malloc(3 * 2 ** 20, { tag: "weights" });
    buffer.fill(7);
    return buffer.ptr;
  },
  read: () => buffer?.read(0, 1)[0],
  state: () => buffer?.state,
  free: () => buffer?.free(),
  sleep: async () => (await allocator.sleep()).offloadedBytes,
  wakeUp: async () => (await allocator.wakeUp()).restoredBytes,
  cycle: async () => {
    for (let round = 0; round < 20; round++) {
      await allocator.sleep();
      await allocator.wakeUp();
    }
  },
  close: () => allocator.close(),
};

export type Command = keyof typeof commands;

self.onmessage = async ({ data }: MessageEvent<Command>) => {
  try {
    self.postMessage({ value: await commands[data]() });
  } catch (error) {
    self.postMessage({ error: String(error) });
  }
};
