/**
 * Times a call of the native library, a map and a sleep, on whichever JavaScript runtime runs it, and prints the medians. The
 * arguments are the bytes that sleep, and how often.
 */

import process from "node:process";
import { CaMemAllocator } from "camem";

const [sizeBytes = 0, rounds = 0] = process.argv.slice(2).map(Number);
const segmentBytes = 32 * 2 ** 20;
const mapBytes = 2 * 2 ** 20;
const calls = 10_000;

function median(values: readonly number[]): number {
  return values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)] ?? Number.NaN;
}

async function milliseconds(run: () => unknown): Promise<number> {
  const startedMs = performance.now();
  await run();
  return performance.now() - startedMs;
}

const allocator = CaMemAllocator.getInstance({ retain: "all" });
const buffers = Array.from({ length: Math.ceil(sizeBytes / segmentBytes) }, () =>
  allocator.malloc(segmentBytes, { tag: "weights" }),
);
for (const buffer of buffers) buffer.fill(7);
await allocator.prepare();
const durations = { call: [] as number[], map: [] as number[], sleep: [] as number[] };
for (let round = 0; round < rounds; round++) {
  const callsMs = await milliseconds(() => {
    for (let call = 0; call < calls; call++) allocator.memGetInfo();
  });
  durations.call.push((callsMs * 1e6) / calls);
  durations.map.push((await milliseconds(() => allocator.malloc(mapBytes).free())) * 1000);
  durations.sleep.push(await milliseconds(() => allocator.sleep()));
  await allocator.wakeUp();
}
const { call, map, sleep } = durations;
console.log(JSON.stringify({ call: median(call), map: median(map), sleep: median(sleep) }));
await allocator.close();
