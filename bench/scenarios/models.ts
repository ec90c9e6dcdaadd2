/** What a user of a model waits for and pays, beside the peers' algorithm: by model and by segment size. */

import { totalmem } from "node:os";
import type { CaMemAllocator } from "camem";
import { localNative } from "../../src/ffi/index.ts";
import { formatSize } from "../../src/options/sizes.ts";
import { Engine, type Layer } from "../engine.ts";
import { GiB, type Layout, pooledSegmentBytes, segmentsOf, smallSegmentBytes } from "../layout.ts";
import { alternate, type Durations, type Rounds } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import { type Context, fits, hasTimingModel, kernelBytes, Memory, Session } from "../session.ts";
import { compare, statistic } from "../statistics.ts";

export const modelsLink = "h2d=24GiB/s,d2h=22GiB/s,d2d=50GiB/s,aclrtMallocHost=4GiB/s,content=off";

const linkNote = [
  "models: the timing model is a link of PCIe 4.0 with 16 lanes; page-locking has 4 GiB/s on each thread,",
  `and layers compute with 50 GiB/s (${modelsLink})`,
].join(" ");

interface Model {
  readonly name: string;
  /** Bytes of the weights in bf16. */
  readonly weightsBytes: number;
  readonly layers: number;
  /** NPUs that share the weights equally. An NPU of 64 GiB has no room for those of 32B and a KV cache. */
  readonly npus: number;
}

const models: readonly Model[] = [
  { name: "0.6B", weightsBytes: 1.2e9, layers: 28, npus: 1 },
  { name: "8B", weightsBytes: 16e9, layers: 36, npus: 1 },
  { name: "32B", weightsBytes: 64e9, layers: 64, npus: 8 },
  { name: "72B", weightsBytes: 144e9, layers: 80, npus: 8 },
];

const quickModels: readonly Model[] = [
  { name: "4 layers of 0.6B", weightsBytes: (4 * 1.2e9) / 28, layers: 4, npus: 1 },
];

const segmentSizes = [smallSegmentBytes, pooledSegmentBytes];

/** What stays in RAM of the emulated device: more would be touched anew by each wake-up. */
const residentBytes = 4 * GiB;

interface Device {
  readonly name: string;
  /** Host memory for each byte of a model. An emulated device's memory is host memory too, or not there at all. */
  readonly hostBytesPerByte: 0 | 1 | 2;
  /** The largest part that can be measured, whatever memory is free. */
  readonly maxBytes: number;
}

function deviceOf({ backend }: CaMemAllocator): Device {
  const soc = localNative.runtimeInfo().socName;
  // No preparation takes more than the machine has.
  if (hasTimingModel(soc)) return { name: "timing model", hostBytesPerByte: 0, maxBytes: totalmem() };
  return backend.kind === "emulator"
    ? { name: "emulator", hostBytesPerByte: 2, maxBytes: residentBytes }
    : { name: soc, hostBytesPerByte: 1, maxBytes: Number.POSITIVE_INFINITY };
}

/** A model, or the part of it on one NPU, in segments of one size. */
interface Case {
  readonly model: Model;
  readonly layout: Layout;
}

function caseName({ name, npus }: Model, device: Device): string {
  return npus === 1 ? `${name}, ${device.name}` : `${name} on ${npus} NPUs, ${device.name}`;
}

/** Whole segments. */
function layoutOf({ weightsBytes, npus }: Model, segmentBytes: number): Layout {
  return { sizeBytes: Math.ceil(weightsBytes / npus / segmentBytes) * segmentBytes, segmentBytes };
}

/** For each layer the numbers of its first segment and of the one after its last. */
function layerBounds({ model, layout }: Case): [number, number][] {
  const start = (layer: number) => Math.floor((layer * segmentsOf(layout)) / model.layers);
  return Array.from({ length: model.layers }, (_, layer) => [start(layer), start(layer + 1)]);
}

/** A layer computes by copying as many bytes within the device. */
const workOf = ({ layout }: Case, [start, end]: [number, number]) => ({
  workBytes: (end - start) * layout.segmentBytes,
});

/** Device memory with which the engine copies a whole layer at once. */
const scratchBytesOf = ({ model, layout }: Case) =>
  2 * Math.ceil(segmentsOf(layout) / model.layers) * layout.segmentBytes;

async function timed(run: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now();
  await run();
  return performance.now() - startedMs;
}

/** Resident memory of the process alone. The emulated device's memory is shared memory, so it does not count. */
const anonymousBytes = () => kernelBytes("/proc/self/status", "RssAnon");

/** A sleep after `prepare` and a whole wake-up; then a sleep without it and an ordered wake-up. */
async function camemCycle({ allocator }: Session, measured: Case): Promise<Durations> {
  using memory = new Memory(allocator, "weights", measured.layout);
  using engine = new Engine(allocator, scratchBytesOf(measured));
  const layers = layerBounds(measured).map((bounds): Layer => {
    return { ...workOf(measured, bounds), memory: memory.buffers.slice(...bounds) };
  });
  await allocator.prepare();
  const prepared = await timed(() => allocator.sleep());
  const wake = await timed(() => allocator.wakeUp());
  const [residentBytes, { pageLockedBytes }] = [anonymousBytes(), allocator.hostUsage()];
  const first = await timed(() => allocator.sleep());
  const lockedBytes = allocator.hostUsage().pageLockedBytes - pageLockedBytes;
  // A driver may not count page-locked memory as resident, and the timing model has none that is resident.
  const host = Math.max(lockedBytes, anonymousBytes() - residentBytes);
  return { prepared, wake, first, host, token: await engine.wakeAndCompute(allocator, layers) };
}

/** A first sleep with a wake-up, after which everything is computed. */
function peersCycle({ allocator, loops }: Session, measured: Case): Durations {
  using segments = loops.segments(segmentsOf(measured.layout), measured.layout.segmentBytes);
  using engine = new Engine(allocator, scratchBytesOf(measured));
  const residentBytes = anonymousBytes();
  const first = segments.peersSleep();
  const host = Math.max(segments.peersHostBytes(), anonymousBytes() - residentBytes);
  const wake = segments.peersWake();
  const compute = engine.compute(layerBounds(measured).map((bounds) => workOf(measured, bounds)));
  return { first, host, token: wake + compute, wake };
}

/** Gigabytes take seconds, so a larger part is measured once. */
const repeatedBytes = 4 * GiB;

function measure(session: Session, measured: Case, quick: boolean): Promise<Rounds> {
  const rounds = measured.layout.sizeBytes <= repeatedBytes && !quick ? 3 : 1;
  return alternate(
    { camem: () => camemCycle(session, measured), peers: () => peersCycle(session, measured) },
    { rounds, warmUp: false },
  );
}

/** What camem and the peers measure. The peers cannot prepare, so every first sleep of theirs page-locks. */
const operations = [
  { operation: "sleep after prepare", own: "prepared", theirs: "first" },
  { operation: "first sleep", own: "first", theirs: "first" },
  { operation: "wake-up", own: "wake", theirs: "wake" },
  { operation: "first token", own: "token", theirs: "token" },
  { operation: "host memory", own: "host", theirs: "host" },
] as const;

function figuresOf(name: string, { layout }: Case, rounds: Rounds): Figure[] {
  return operations.map(({ operation, own, theirs }): Figure => {
    const values = rounds.get("camem", own);
    return {
      scenario: "models",
      case: name,
      operation,
      sizeBytes: layout.sizeBytes,
      segments: segmentsOf(layout),
      unit: own === "host" ? "bytes" : "ms",
      value: statistic(values),
      peers: compare("the peers' algorithm in C", values, rounds.get("peers", theirs)),
    };
  });
}

/** Host memory that is kept would make a first sleep faster. What fits is known beforehand. */
const options = { retain: "none", hostBudget: "unlimited" } as const;

/** Why a case cannot be measured; undefined where it can. */
function obstacle(measured: Case, device: Device, allocator: CaMemAllocator): string | undefined {
  const { sizeBytes } = measured.layout;
  if (sizeBytes > device.maxBytes) return `it exceeds ${formatSize(device.maxBytes)}`;
  const isFitting = fits(sizeBytes + scratchBytesOf(measured), device.hostBytesPerByte, allocator);
  return isFitting ? undefined : "too little memory is free";
}

async function measureAll(session: Session, quick: boolean): Promise<Findings> {
  const device = deviceOf(session.allocator);
  const figures: Figure[] = [];
  const notes = new Set<string>();
  for (const model of quick ? quickModels : models) {
    const name = caseName(model, device);
    const cases = segmentSizes.map(
      (segmentBytes): Case => ({ model, layout: layoutOf(model, segmentBytes) }),
    );
    const reason = cases.map((each) => obstacle(each, device, session.allocator)).find((text) => text);
    if (reason !== undefined) {
      notes.add(`models: ${name}: left out, because ${reason}`);
      continue;
    }
    for (const measured of cases)
      figures.push(...figuresOf(name, measured, await measure(session, measured, quick)));
    if (model.npus > 1)
      notes.add(
        `models: on ${model.npus} NPUs: one NPU's part; the others have links and host memory of their own`,
      );
  }
  return { figures, targets: [], notes: [...notes] };
}

export async function modelsOnDevice(context: Context): Promise<Findings> {
  await using session = new Session(context, options);
  return await measureAll(session, context.quick);
}

/** A real device ignores the timing model, so only `modelsOnDevice` measures there. */
export async function modelsOnTimingModel(context: Context): Promise<Findings> {
  await using session = new Session(context, options);
  if (session.allocator.backend.kind !== "emulator") return { figures: [], targets: [], notes: [] };
  const { figures, targets, notes } = await measureAll(session, context.quick);
  return { figures, targets, notes: [linkNote, ...notes] };
}
