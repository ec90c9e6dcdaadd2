/** The time to the first token after a wake-up, with the time that an assumed device takes to copy and to compute. */

import { dlopen } from "bun:ffi";
import type { CaMemAllocator, DeviceBuffer } from "camem";
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

/** An engine with a stream of its own. */
class Engine implements Disposable {
  readonly #acl;
  readonly #scratch: DeviceBuffer;
  readonly stream: number;

  constructor(allocator: CaMemAllocator) {
    this.#acl = dlopen(allocator.backend.library, {
      aclrtSetDevice: { args: ["i32"], returns: "i32" },
      aclrtResetDevice: { args: ["i32"], returns: "i32" },
      aclrtCreateStream: { args: ["ptr"], returns: "i32" },
      aclrtDestroyStream: { args: ["u64"], returns: "i32" },
      aclrtSynchronizeStream: { args: ["u64"], returns: "i32" },
      aclrtMemcpyAsync: { args: ["u64", "u64", "u64", "u64", "i32", "u64"], returns: "i32" },
    }).symbols;
    const handle = new BigUint64Array(1);
    this.#check(this.#acl.aclrtSetDevice(allocator.device));
    this.#check(this.#acl.aclrtCreateStream(handle));
    this.stream = Number(handle[0]);
    this.#scratch = allocator.malloc(2 * GiB, { tag: "sleep_persistent" });
  }

  /** Gives the work of one layer to the stream. */
  compute(sizeBytes: number): void {
    const onDevice = 3;
    const half = this.#scratch.sizeBytes / 2;
    const { ptr } = this.#scratch;
    for (let left = sizeBytes; left > 0; left -= half) {
      const piece = Math.min(left, half);
      this.#check(this.#acl.aclrtMemcpyAsync(ptr, half, ptr + half, piece, onDevice, this.stream));
    }
  }

  synchronize(): void {
    this.#check(this.#acl.aclrtSynchronizeStream(this.stream));
  }

  #check(code: number): void {
    if (code !== 0) throw new Error(`AscendCL returned ${code}`);
  }

  [Symbol.dispose](): void {
    this.#check(this.#acl.aclrtDestroyStream(this.stream));
    this.#check(this.#acl.aclrtResetDevice(0));
    this.#scratch.free();
  }
}

async function time(run: () => Promise<void> | void): Promise<number> {
  const startedMs = performance.now();
  await run();
  return performance.now() - startedMs;
}

interface Setup {
  readonly allocator: CaMemAllocator;
  readonly engine: Engine;
  readonly layers: readonly DeviceBuffer[];
  readonly workBytes: number;
}

/** Computes each layer as soon as it is back. */
async function ordered({ allocator, engine, layers, workBytes }: Setup): Promise<Durations> {
  await allocator.sleep();
  const token = await time(async () => {
    const wake = allocator.wakeUp({ order: layers });
    for (const layer of layers) {
      await wake.streamWait(engine.stream, layer);
      engine.compute(workBytes);
    }
    await wake;
    engine.synchronize();
  });
  return { token };
}

/** Waits for the whole wake-up, then computes. */
async function apart({ allocator, engine, layers, workBytes }: Setup): Promise<Durations> {
  await allocator.sleep();
  const copy = await time(async () => void (await allocator.wakeUp()));
  const compute = await time(() => {
    for (const _ of layers) engine.compute(workBytes);
    engine.synchronize();
  });
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
  using engine = new Engine(allocator);
  await allocator.prepare();
  const figures: Figure[] = [];
  const all: number[] = [];
  for (const [name, factor] of Object.entries(works)) {
    const workBytes = layout.segmentBytes * factor;
    const setup: Setup = { allocator, engine, layers: memory.buffers, workBytes };
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
