/** Device memory of a model's tensors beyond their content: in a pool, and with one segment per tensor. */

import type { CaMemAllocator, DeviceBuffer } from "camem";
import type { Figure, Findings } from "../schema.ts";
import { type Context, Session } from "../session.ts";
import { statistic } from "../statistics.ts";

const bf16Bytes = 2;

/** Sizes of Qwen2.5-0.5B-Instruct's tensors, from its public configuration. The head shares the embedding. */
function qwenTensorBytes(): number[] {
  const [hidden, intermediate, layers, vocabulary] = [896, 4864, 24, 151_936];
  const [heads, keyValueHeads] = [14, 2];
  const keyWidth = (hidden / heads) * keyValueHeads;
  const layer = [
    ...[hidden, hidden], // norms
    ...[hidden * hidden, keyWidth * hidden, keyWidth * hidden, hidden * hidden], // q, k, v, o
    ...[hidden, keyWidth, keyWidth], // biases of q, k, v
    ...[intermediate * hidden, intermediate * hidden, hidden * intermediate],
  ];
  const elements = [vocabulary * hidden, ...Array.from({ length: layers }, () => layer).flat(), hidden];
  return elements.map((count) => count * bf16Bytes);
}

type Allocate = (allocator: CaMemAllocator, sizes: readonly number[]) => DeviceBuffer[];

const allocations: Readonly<Record<string, Allocate>> = {
  "MemoryPool.mallocAll": (allocator, sizes) => allocator.memoryPool("weights").mallocAll(sizes),
  "MemoryPool.malloc": (allocator, sizes) =>
    sizes.map((sizeBytes) => allocator.memoryPool("weights").malloc(sizeBytes)),
  "one segment per tensor": (allocator, sizes) =>
    sizes.map((sizeBytes) => allocator.malloc(sizeBytes, { tag: "weights" })),
};

/** One round is enough, because bytes are exact. */
function overhead(allocator: CaMemAllocator, name: string, allocate: Allocate): Figure {
  const sizes = qwenTensorBytes();
  const contentBytes = sizes.reduce((sum, sizeBytes) => sum + sizeBytes, 0);
  const freeBefore = allocator.memGetInfo().freeBytes;
  const buffers = allocate(allocator, sizes);
  const takenBytes = freeBefore - allocator.memGetInfo().freeBytes;
  const segments = allocator.usage()["weights"]?.segments ?? 0;
  for (const buffer of buffers) buffer.free();
  return {
    scenario: "pools",
    case: name,
    operation: "memory beyond the content",
    sizeBytes: contentBytes,
    segments,
    unit: "%",
    value: statistic([(takenBytes / contentBytes - 1) * 100]),
  };
}

export async function poolOverhead(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const figures = Object.entries(allocations).map(([name, allocate]) =>
    overhead(session.allocator, name, allocate),
  );
  return { figures, targets: [], notes: [] };
}
