/** Transitions with the checkpoint as backup: a sleep only unmaps, a wake-up reads from the page cache. */

import { closeSync, fsyncSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { loadSafetensors } from "camem";
import { type Layout, MiB, pooled, segmentsOf, transitionSizes } from "../layout.ts";
import { rangesOf } from "../loops.ts";
import { alternate } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import { type Context, Session, sizesThatFit } from "../session.ts";
import { compare } from "../statistics.ts";
import { limits, mergeDurations, timeTransition, transitionFigure } from "../transition.ts";

const chunkBytes = 16 * MiB;
const stagingBytes = 32 * MiB;

/** Writes one tensor for each segment. The bytes vary, so that no file system stores them sparsely. */
function writeCheckpoint(path: string, { sizeBytes, segmentBytes }: Layout): void {
  const entries = Array.from({ length: sizeBytes / segmentBytes }, (_, index) => [
    `layers.${index}`,
    {
      dtype: "U8",
      shape: [segmentBytes],
      data_offsets: [index * segmentBytes, (index + 1) * segmentBytes],
    },
  ]);
  const json = JSON.stringify(Object.fromEntries(entries));
  const header = Buffer.from(json.padEnd(Math.ceil(json.length / 4096) * 4096 - 8, " "));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const chunk = Buffer.alloc(Math.min(chunkBytes, sizeBytes), "synthetic weights, ");
  const file = openSync(path, "w");
  writeSync(file, length);
  writeSync(file, header);
  for (let written = 0; written < sizeBytes; written += chunk.length) writeSync(file, chunk);
  // The kernel must not write the file back during a measurement.
  fsyncSync(file);
  closeSync(file);
}

async function measure(session: Session, layout: Layout, path: string, rounds: number): Promise<Figure[]> {
  const { allocator, loops } = session;
  writeCheckpoint(path, layout);
  const tensors = await loadSafetensors(path, { allocator, backing: "file" });
  const buffers = [...tensors.values()].map((tensor) => tensor.buffer);
  const ranges = rangesOf(buffers);
  const file = openSync(path, "r");
  using staging = loops.host(stagingBytes);
  await allocator.sleep();
  using segments = loops.segments(segmentsOf(layout), layout.segmentBytes);
  segments.unmap();
  const parts = {
    camem: async () => {
      const woken = await timeTransition("wake", () => allocator.wakeUp());
      const copy = staging.copyFromFile(file, ranges);
      return mergeDurations(woken, { copy }, await timeTransition("sleep", () => allocator.sleep()));
    },
    calls: () => ({ wake: segments.map(), sleep: segments.unmap() }),
  };
  const measured = await alternate(parts, { rounds });
  await allocator.wakeUp();
  segments.map();
  closeSync(file);
  for (const buffer of buffers) buffer.free();
  const labels = { scenario: "transitions", case: "file", layout };
  const [sleep, wake] = [measured.get("camem", "sleep"), measured.get("camem", "wake")];
  const readAndCopy = "a C loop that reads and copies with as many threads";
  return [
    transitionFigure(measured, "camem", "sleep", labels, {
      limit: compare(limits.unmap, sleep, measured.get("calls", "sleep")),
    }),
    transitionFigure(measured, "camem", "wake", labels, {
      limit: compare(readAndCopy, wake, measured.get("camem", "copy")),
    }),
  ];
}

export async function fileBacking(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "all" });
  const { sizes, notes } = sizesThatFit(transitionSizes(context.quick), 2, session.allocator);
  const figures: Figure[] = [];
  const path = join(context.folder, "model.safetensors");
  for (const size of sizes) {
    figures.push(...(await measure(session, pooled(size), path, context.quick ? 5 : 7)));
    rmSync(path);
  }
  return { figures, targets: [], notes };
}
