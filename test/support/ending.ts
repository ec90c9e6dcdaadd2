/** A process that ends in one of many ways while memory sleeps or moves. Run by exits.test.ts, with the way as its argument. */

import { CaMemAllocator } from "camem";
import { accounting, holdDevice, MiB, nothingHeld, onEmulator, setFaults } from "./device.ts";

const allocator = CaMemAllocator.getInstance();
const weights = allocator.malloc(64 * MiB, { tag: "weights" });
weights.fill(1);

/** Starts a sleep that cannot go on: the device is held. */
async function sleepThatWaits() {
  const held = holdDevice();
  const sleeping = allocator.sleep();
  sleeping.catch(() => undefined);
  while (weights.state !== "moving") await Bun.sleep(1);
  return { held, sleeping };
}

/** Starts a sleep and returns in the middle of its copies. */
async function sleepThatCopies(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  allocator.sleep({ onProgress: ({ phase }) => phase === "copying" && resolve() }).catch(() => undefined);
  await promise;
}

async function closeAndExpectNothing(): Promise<void> {
  await allocator.close();
  if (onEmulator && !Bun.deepEquals(accounting(), nothingHeld)) throw new Error(JSON.stringify(accounting()));
}

const ways: Record<string, () => unknown> = {
  "exit asleep": async () => {
    await allocator.sleep();
    process.exit(0);
  },
  "end asleep": () => allocator.sleep(),
  "exit while waiting": async () => {
    await sleepThatWaits();
    process.exit(0);
  },
  "exit while copying": async () => {
    await sleepThatCopies();
    process.exit(0);
  },
  "exit while waking": async () => {
    await allocator.sleep();
    allocator.wakeUp().catch(() => undefined);
    await new Promise(setImmediate);
    process.exit(0);
  },
  "throw while copying": async () => {
    await sleepThatCopies();
    throw new RangeError("nobody catches this");
  },
  "signal while copying": async () => {
    await sleepThatCopies();
    console.log("ready");
    await Bun.sleep(10_000);
  },
  "signal in a server that closes": async () => {
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("ok") });
    process.on("SIGTERM", async () => {
      await server.stop(true);
      await closeAndExpectNothing();
      process.exit(0);
    });
    await allocator.sleep();
    console.log("ready");
  },
  "throw in a region": async () => {
    try {
      await allocator.useMemoryPool("kv_cache", async (pool) => {
        pool.malloc(MiB);
        await allocator.sleep();
        throw new RangeError("body");
      });
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
    await closeAndExpectNothing();
  },
  dispose: async () => {
    {
      using first = allocator.malloc(MiB);
      using second = allocator.memoryPool("weights").malloc(1000);
      second.fill(first.sizeBytes % 256);
      await allocator.sleep();
    }
    if (allocator.usage()["weights"]?.segments !== 1) throw new Error("using has freed nothing");
    await closeAndExpectNothing();
  },
  "dispose of the allocator with a failing device": async () => {
    if (onEmulator) setFaults("aclrtUnmapMem:1=507010");
    await allocator.close().catch(() => undefined);
    if (onEmulator) setFaults("");
    await closeAndExpectNothing();
  },
  "exit within a Worker": async () => {
    const code = `require("${import.meta.dir}/../../src/index.ts").CaMemAllocator.getInstance().sleep(); setTimeout(() => process.exit(0), 1)`;
    const url = URL.createObjectURL(new Blob([code], { type: "application/javascript" }));
    const worker = new Worker(url, { env: process.env as Record<string, string> });
    await new Promise((resolve) => worker.addEventListener("close", resolve));
    await closeAndExpectNothing();
  },
};

const way = ways[process.argv[2] ?? ""];
if (way === undefined)
  throw new Error(`there is no way ${process.argv[2]}; there are ${Object.keys(ways).join(", ")}`);
await way();
