/** What sleep and wake-up cost, beside the cost of copying the same bytes in the same run. `bun run bench`. */

import { CaMemAllocator } from "camem";
import { Bench } from "tinybench";
import { selectBackend } from "../scripts/backend.ts";
import { formatSize } from "../src/sizes.ts";

const MiB = 2 ** 20;
const sizes = [2, 64, 256].map((mebibytes) => mebibytes * MiB);

const { backend, reason } = await selectBackend();
console.log(`measured on: ${backend} (${reason}); medians of touched memory`);
await using allocator = CaMemAllocator.getInstance();
const bench = new Bench({ time: 300, warmupTime: 100, throws: true });

for (const sizeBytes of sizes) {
  const tag = `weights of ${formatSize(sizeBytes)}`;
  allocator.defineTag(tag, { 1: "offload", 2: "discard" });
  const buffer = allocator.malloc(sizeBytes, { tag });
  const content = new Uint8Array(sizeBytes).fill(1);
  buffer.write(content);
  const cycle = (level: 1 | 2) => async () => {
    await allocator.sleep({ level, tags: [tag] });
    await allocator.wakeUp({ tags: [tag] });
  };
  bench.add(`${formatSize(sizeBytes)}: copy to the host and back`, () => {
    buffer.readInto(content);
    buffer.write(content);
  });
  bench.add(`${formatSize(sizeBytes)}: level 1 sleep and wake-up`, cycle(1));
  bench.add(`${formatSize(sizeBytes)}: level 2 sleep and wake-up`, cycle(2));
}
bench.add("malloc and free of one segment", () => allocator.malloc(2 * MiB).free());

await bench.run();
console.table(
  bench.tasks.map(({ name, result }) => {
    if (!("latency" in result)) return { name };
    const { p50, p75, samplesCount } = result.latency;
    return { name, "median ms": p50.toFixed(3), "75% ms": p75.toFixed(3), samples: samplesCount };
  }),
);
