/** Transitions with the checkpoint as backup: a sleep only unmaps, a wake-up reads from the page cache. */

import { closeSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { loadSafetensors } from "camem";
import { writeCheckpoint } from "../checkpoint.ts";
import { type Layout, MiB, pooled, segmentsOf, transitionSizes } from "../layout.ts";
import { rangesOf } from "../loops.ts";
import { alternate } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import { type Context, Session, sizesThatFit } from "../session.ts";
import { compare } from "../statistics.ts";
import { limits, mergeDurations, timeTransition, transitionFigure } from "../transition.ts";

const stagingBytes = 32 * MiB;

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
