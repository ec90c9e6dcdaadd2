/** Backups that are the checkpoint itself: a sleep only unmaps, a wake-up streams from the page cache. */

import { closeSync, fsyncSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { loadSafetensors } from "camem";
import { together, transitionFigure } from "../figures.ts";
import { rangesOf } from "../loops.ts";
import { alternate } from "../rounds.ts";
import type { Findings } from "../schema.ts";
import {
  type Context,
  type Layout,
  MiB,
  pooled,
  Session,
  segmentsOf,
  sizesThatFit,
  timeTransition,
} from "../session.ts";
import { compare } from "../statistics.ts";
import { sizesOf } from "./resident.ts";

const scenario = "transitions";
const chunkBytes = 16 * MiB;
const stagingBytes = 32 * MiB;

/** A checkpoint of one tensor for each segment, without a run of equal bytes that a file system could leave out. */
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
  // So that the kernel does not write it out while something is measured.
  fsyncSync(file);
  closeSync(file);
}

async function measure(session: Session, layout: Layout, path: string, rounds: number): Promise<Findings> {
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
      return together(woken, { copy }, await timeTransition("sleep", () => allocator.sleep()));
    },
    calls: () => ({ wake: segments.map(), sleep: segments.unmap() }),
  };
  const measured = await alternate(parts, { rounds });
  await allocator.wakeUp();
  segments.map();
  closeSync(file);
  for (const buffer of buffers) buffer.free();
  const about = { scenario, case: "file", layout };
  const sleepLimit = compare(
    "a C loop that only unmaps and frees",
    measured.of("camem", "sleep"),
    measured.of("calls", "sleep"),
  );
  const wakeLimit = compare(
    "a C loop that reads and copies with as many threads",
    measured.of("camem", "wake"),
    measured.of("camem", "copy"),
  );
  return {
    figures: [
      transitionFigure(measured, "camem", "sleep", about, { limit: sleepLimit }),
      transitionFigure(measured, "camem", "wake", about, { limit: wakeLimit }),
    ],
    reached: [],
    notes: [],
  };
}

export async function file(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "all" });
  const { sizes, notes } = sizesThatFit(sizesOf(context.quick), 2, session.allocator);
  const found: Findings = { figures: [], reached: [], notes };
  const path = join(context.folder, "model.safetensors");
  for (const size of sizes) {
    const { figures } = await measure(session, pooled(size), path, context.quick ? 5 : 7);
    found.figures.push(...figures);
    rmSync(path);
  }
  return found;
}
