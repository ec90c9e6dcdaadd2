/** Puts 60 GiB of weights to sleep, wakes them and prints the durations; emulator.test.ts starts it. */

import { CaMemAllocator } from "camem";
import { MiB } from "../support/device.ts";

const GiB = 1024 * MiB;
await using allocator = CaMemAllocator.getInstance();
for (let index = 0; index < 60; index++) allocator.malloc(GiB, { tag: "weights" });

async function durationMs(run: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await run();
  return performance.now() - begun;
}

const sleepMs = await durationMs(() => allocator.sleep({ level: 1 }));
const wakeUpMs = await durationMs(() => allocator.wakeUp());
process.stdout.write(JSON.stringify({ sleepMs, wakeUpMs, residentBytes: process.memoryUsage.rss() }));
