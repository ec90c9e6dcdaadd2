/** The Worker of cases.ts: it is terminated, or exits, in the middle of its order. */

import { CaMemAllocator } from "camem";

declare const self: Worker;

async function cycle(): Promise<never> {
  const allocator = CaMemAllocator.getInstance();
  while (true) {
    await allocator.sleep();
    await allocator.wakeUp();
  }
}

const orders = {
  sleep: () => void CaMemAllocator.getInstance().sleep(),
  /** The call itself waits for the device. */
  free: () => {
    const buffer = CaMemAllocator.getInstance().malloc(2 ** 20);
    setTimeout(() => buffer.free());
  },
  cycle: () => void cycle(),
  "sleep and exit": () => {
    const allocator = CaMemAllocator.getInstance();
    allocator.malloc(2 ** 20, { tag: "weights" });
    void allocator.sleep();
    setTimeout(() => process.exit(3), 10);
  },
  "cycle and exit": () => {
    CaMemAllocator.getInstance().malloc(2 ** 20, { tag: "weights" });
    void cycle();
    setTimeout(() => process.exit(3), Math.random() * 20);
  },
};

export type Order = keyof typeof orders;

self.onmessage = ({ data }: MessageEvent<Order>) => {
  orders[data]();
  self.postMessage("asked");
};
