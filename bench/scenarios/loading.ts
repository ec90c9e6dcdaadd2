/** Loads of a checkpoint: from the page cache, from the disk, in one file and in several. */

import { closeSync, constants, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { loadSafetensors } from "camem";
import { type Shards, writeCheckpoint, writeShards } from "../checkpoint.ts";
import { DelayMonitor } from "../delay.ts";
import { describeLayout, GiB, type Layout, MiB, pooled, quickBytes, segmentsOf } from "../layout.ts";
import { type HostMemory, rangesOf } from "../loops.ts";
import { alternate, type Durations, type Part } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import { type Context, Session } from "../session.ts";
import { compare, ratios, statistic } from "../statistics.ts";

const scenario = "loading";
const stagingBytes = 32 * MiB;
const shardCount = 4;

/** Names of the C loops that loads are compared with. */
const limits = {
  cached: "a C loop that reads and copies with as many threads",
  disk: "the same C loop with O_DIRECT",
} as const;

interface Case {
  readonly name: string;
  /** What is given to `loadSafetensors`. */
  readonly path: string;
  readonly files: readonly string[];
  readonly from: keyof typeof limits;
}

/** Descriptors of files, until they are disposed of. */
class OpenFiles implements Disposable {
  readonly descriptors: readonly number[];

  constructor(paths: readonly string[], flags: number) {
    this.descriptors = paths.map((path) => openSync(path, constants.O_RDONLY | flags));
  }

  [Symbol.dispose](): void {
    for (const descriptor of this.descriptors) closeSync(descriptor);
  }
}

async function measure(
  { allocator, loops }: Session,
  layout: Layout,
  { name, path, files, from }: Case,
  rounds: number,
): Promise<{ readonly figure: Figure; readonly ratios: number[] }> {
  const into = await loadSafetensors(path, { allocator });
  const ranges = rangesOf([...into.values()].map(({ buffer }) => buffer));
  const perFile = ranges.length / files.length;
  using staging: HostMemory = loops.host(stagingBytes);
  using opened = new OpenFiles(files, from === "disk" ? constants.O_DIRECT : 0);
  const forget = () => {
    if (from === "disk") for (const descriptor of opened.descriptors) loops.forget(descriptor);
  };
  const camem = async (): Promise<Durations> => {
    forget();
    allocator.markDirty("weights");
    const startedMs = performance.now();
    await loadSafetensors(path, { allocator, into });
    return { load: performance.now() - startedMs };
  };
  const copyFile = (descriptor: number, index: number) =>
    staging.copyFromFile(descriptor, ranges.subarray(index * perFile, (index + 1) * perFile));
  const parts: Record<"camem" | "copy", Part> = {
    camem,
    copy: () => {
      forget();
      return { load: opened.descriptors.map(copyFile).reduce((sum, ms) => sum + ms) };
    },
  };
  const measured = await alternate(parts, { rounds });
  for (const { buffer } of into.values()) buffer.free();
  const [own, limit] = [measured.get("camem", "load"), measured.get("copy", "load")];
  const figure: Figure = {
    scenario,
    case: name,
    operation: "load",
    sizeBytes: layout.sizeBytes,
    segments: segmentsOf(layout),
    unit: "ms",
    value: statistic(own),
    limit: compare(limits[from], own, limit),
  };
  return { figure, ratios: ratios(limit, own) };
}

/** The longest delay of the event loop while many small tensors are loaded. */
async function measureDelay({ allocator }: Session, path: string, layout: Layout, rounds: number) {
  writeCheckpoint(path, layout);
  const monitor = await DelayMonitor.create();
  const delays: number[] = [];
  const load = async () => {
    const tensors = await loadSafetensors(path, { allocator });
    for (const { buffer } of tensors.values()) buffers.push(buffer);
  };
  const buffers: { free(): void }[] = [];
  for (let round = 0; round < rounds; round++) {
    delays.push(await monitor.longest(load));
    for (const buffer of buffers.splice(0)) buffer.free();
  }
  const figure: Figure = {
    scenario,
    case: "many tensors",
    operation: "longest delay",
    sizeBytes: layout.sizeBytes,
    segments: segmentsOf(layout),
    unit: "ms",
    value: statistic(delays),
  };
  return { figure, delays };
}

export async function loading(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "none" });
  const { quick, folder } = context;
  const layout = pooled(quick ? quickBytes : 2 * GiB);
  const path = join(folder, "model.safetensors");
  writeCheckpoint(path, layout);
  const shards: Shards = writeShards(folder, layout, quick ? 2 : shardCount);
  const cases: readonly Case[] = [
    { name: "page cache", path, files: [path], from: "cached" },
    {
      name: `page cache, ${shards.files.length} files`,
      path: shards.index,
      files: shards.files,
      from: "cached",
    },
    { name: "disk", path, files: [path], from: "disk" },
  ];
  const figures: Figure[] = [];
  const speeds = { cached: [] as number[], disk: [] as number[] };
  for (const each of cases) {
    const { figure, ratios: found } = await measure(session, layout, each, quick ? 2 : 7);
    figures.push(figure);
    speeds[each.from].push(...found);
  }
  for (const file of [path, ...shards.files]) rmSync(file);
  const many = { sizeBytes: (quick ? 1000 : 20_000) * 16 * 1024, segmentBytes: 16 * 1024 };
  const { figure, delays } = await measureDelay(session, path, many, quick ? 2 : 7);
  rmSync(path);
  const measured = describeLayout(layout);
  return {
    figures: [...figures, figure],
    targets: [
      { id: "loading", measured: `${measured}, in one file and in several`, value: statistic(speeds.cached) },
      { id: "loading disk", measured, value: statistic(speeds.disk) },
      { id: "loading delay", measured: `${segmentsOf(many)} tensors`, value: statistic(delays) },
    ],
    notes: [],
  };
}
