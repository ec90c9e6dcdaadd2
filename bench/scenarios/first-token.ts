/** The time to the first token after a wake-up, with the time that an assumed device takes to copy and to compute. */

import type { CaMemAllocator } from "camem";
import { Engine, type Layer } from "../engine.ts";
import { describeLayout, GiB, type Layout, MiB } from "../layout.ts";
import { alternate, type Durations } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import { type Context, Memory, Session, sizesThatFit } from "../session.ts";
import { compare, ratios, statistic } from "../statistics.ts";

/** A link of PCIe 4.0 with 16 lanes. Copies within the device stand in for what its layers compute. */
export const modelledDevice = "h2d=24GiB/s,d2h=22GiB/s,d2d=100GiB/s,content=off";

const layerCount = 32;

/** Bytes that a layer's stand-in copies, against those of the layer: below and above the time of its wake-up. */
const works = { "compute is faster": 2, "compute is slower": 6 } as const;

interface Setup {
  readonly allocator: CaMemAllocator;
  readonly engine: Engine;
  readonly layers: readonly Layer[];
}

async function ordered({ allocator, engine, layers }: Setup): Promise<Durations> {
  await allocator.sleep();
  return { token: await engine.wakeAndCompute(allocator, layers) };
}

/** Waits for the whole wake-up, then computes. */
async function apart({ allocator, engine, layers }: Setup): Promise<Durations> {
  await allocator.sleep();
  const startedMs = performance.now();
  await allocator.wakeUp();
  const copy = performance.now() - startedMs;
  const compute = engine.compute(layers);
  // The first layer must be back before anything is computed.
  return { token: copy + compute, limit: Math.max(copy, compute) + copy / layerCount };
}

/** As large as 14 GiB where that fits. */
function layoutFor(context: Context, allocator: CaMemAllocator): Layout {
  const { sizes } = sizesThatFit([4 * GiB, 14 * GiB], 1, allocator);
  const sizeBytes = context.quick ? 512 * MiB : (sizes.at(-1) ?? GiB);
  return { sizeBytes, segmentBytes: sizeBytes / layerCount };
}

export async function firstToken(context: Context): Promise<Findings> {
  await using session = new Session(context, { retain: "all" });
  const { allocator } = session;
  const layout = layoutFor(context, allocator);
  using memory = new Memory(allocator, "weights", layout);
  using engine = new Engine(allocator, 2 * GiB);
  await allocator.prepare();
  const figures: Figure[] = [];
  const all: number[] = [];
  for (const [name, factor] of Object.entries(works)) {
    const workBytes = layout.segmentBytes * factor;
    const layers = memory.buffers.map((buffer) => ({ memory: buffer, workBytes }));
    const setup: Setup = { allocator, engine, layers };
    const parts = { ordered: () => ordered(setup), apart: () => apart(setup) };
    const measured = await alternate(parts, { rounds: context.quick ? 2 : 4 });
    const token = measured.get("ordered", "token");
    const limit = measured.get("apart", "limit");
    figures.push({
      scenario: "first token",
      case: name,
      operation: "wake",
      sizeBytes: layout.sizeBytes,
      segments: layerCount,
      unit: "ms",
      value: statistic(token),
      limit: compare("the longer of copying and computing, and one layer", token, limit),
      peers: compare("waking up, then computing", token, measured.get("apart", "token")),
    });
    all.push(...ratios(token, limit));
  }
  const measured = `${describeLayout(layout)}, computing faster and slower than copying`;
  const targets = [{ id: "first token", measured, value: statistic(all) }];
  return { figures, targets, notes: [`first token: timing model ${modelledDevice}`] };
}
