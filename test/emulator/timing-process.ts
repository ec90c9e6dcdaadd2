/** Puts 60 GiB of weights to sleep, wakes them and prints the durations; emulator.test.ts starts it. */

import { CaMemAllocator } from "camem";
import { MiB } from "../support/device.ts";

const GiB = 1024 * MiB;
// The emulator has no such memory behind it: the host budget of this machine does not apply.
await using allocator = CaMemAllocator.getInstance({ hostBudget: "unlimited" });
for (let index = 0; index < 60; index++) allocator.malloc(GiB, { tag: "weights" });

async function durationMs(run: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await run();
  return performance.now() - begun;
}

const sleepMs = await durationMs(() => allocator.sleep({ level: 1 }));
const wakeUpMs = await durationMs(() => allocator.wakeUp());
process.stdout.write(JSON.stringify({ sleepMs, wakeUpMs, residentBytes: process.memoryUsage.rss() }));
