/**
 * Ends in the way that its argument names, at the worst moment; process-exit.test.ts starts it. It prints a line at that moment,
 * and one for what must hold afterwards.
 */

import assert from "node:assert/strict";
import { CaMemAllocator, type DeviceBuffer, type TransitionProgress } from "camem";
import { accounting, holdDevice, MiB, nothingHeld, onEmulator } from "../support/device.ts";
import { openPluggable } from "../support/pluggable.ts";
import type { Order } from "./worker.ts";

/** Large enough that a copy can be interrupted in its middle. */
const largeBytes = 128 * MiB;

const say = (text: string) => process.stdout.write(`${text}\n`);

function assertNothingHeld(): void {
  if (onEmulator) assert.deepEqual(accounting(), nothingHeld);
}

/** Weights with content and a cache. */
function allocate(sizeBytes: number = 3 * MiB): { allocator: CaMemAllocator; weights: DeviceBuffer } {
  const allocator = CaMemAllocator.getInstance();
  const weights = allocator.malloc(sizeBytes, { tag: "weights" });
  weights.fill(5);
  allocator.malloc(3 * MiB, { tag: "kv_cache", device: onEmulator ? 1 : 0 });
  return { allocator, weights };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(1);
}

/** Starts a sleep that cannot end before the device is released. */
async function holdSleep() {
  const { allocator, weights } = allocate();
  const held = holdDevice();
  const sleeping = allocator.sleep();
  sleeping.catch(() => undefined);
  await until(() => weights.state === "moving");
  return { allocator, weights, sleeping, held };
}

/** Sleeps and wakes until a transition is in the middle of its copies, then calls `then`, which ends the process. */
async function inMidCopy(transition: "sleep" | "wakeUp", then: (allocator: CaMemAllocator) => void) {
  const { allocator } = allocate(largeBytes);
  let met = false;
  const onProgress = ({ phase, bytesDone, bytesTotal }: TransitionProgress) => {
    if (met || phase !== "copying" || bytesDone === 0 || bytesDone === bytesTotal) return;
    met = true;
    then(allocator);
  };
  while (true) {
    await allocator.sleep(transition === "sleep" ? { onProgress } : {});
    await allocator.wakeUp(transition === "wakeUp" ? { onProgress } : {});
  }
}

/** Sleeps and wakes until the process ends. */
async function cycle(allocator: CaMemAllocator): Promise<never> {
  while (true) {
    await allocator.sleep();
    await allocator.wakeUp();
  }
}

function startWorker(order: Order): { worker: Worker; next: () => Promise<string> } {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), {
    env: process.env as Record<string, string>,
  });
  const said: string[] = [];
  worker.onmessage = ({ data }) => said.push(data);
  worker.onerror = ({ message }) => said.push(`error: ${message}`);
  worker.addEventListener("close", () => said.push("closed"));
  worker.postMessage(order);
  const next = async () => {
    await until(() => said.length > 0);
    return said.shift() ?? "";
  };
  return { worker, next };
}

/** Asserts that the allocator works and releases everything after a Worker has ended. */
async function assertUsable(allocator: CaMemAllocator, weights: DeviceBuffer): Promise<void> {
  await allocator.wakeUp();
  await allocator.sleep();
  await allocator.wakeUp();
  assert.equal(Buffer.compare(weights.read(), Buffer.alloc(weights.sizeBytes, 5)), 0);
  await allocator.close();
  assertNothingHeld();
  say("nothing held");
}

const randomPause = () => Bun.sleep(Math.random() * 20);

const endings: Record<string, () => Promise<unknown>> = {
  /** Only the end of the process releases memory. */
  "exit asleep": async () => {
    await allocate().allocator.sleep();
    say("ready");
    process.exit(0);
  },
  "end asleep": async () => {
    await allocate().allocator.sleep();
    say("ready");
  },
  "end awake": async () => {
    allocate();
    say("ready");
  },
  /** The event loop stays alive until the sleep has ended. */
  "end while a sleep runs": async () => {
    const { allocator, weights } = allocate();
    process.on("exit", () => say(weights.state));
    void allocator.sleep();
    say("ready");
  },
  "end after close": async () => {
    const { allocator } = allocate();
    await allocator.sleep();
    await allocator.close();
    assertNothingHeld();
    say("ready");
  },

  "exit while a sleep waits": async () => {
    await holdSleep();
    say("ready");
    process.exit(0);
  },
  "exit in mid-sleep": () =>
    inMidCopy("sleep", () => {
      say("ready");
      process.exit(0);
    }),
  "exit in mid-wake": () =>
    inMidCopy("wakeUp", () => {
      say("ready");
      process.exit(0);
    }),
  "exit while closing": () =>
    inMidCopy("sleep", (allocator) => {
      void allocator.close();
      say("ready");
      process.exit(0);
    }),
  "exit at any time": async () => {
    const { allocator } = allocate();
    void cycle(allocator);
    await randomPause();
    say("ready");
    process.exit(0);
  },
  "exit code at any time": async () => {
    const { allocator } = allocate();
    void cycle(allocator);
    await randomPause();
    say("ready");
    process.exit(7);
  },
  "kill at any time": async () => {
    const { allocator } = allocate();
    void cycle(allocator);
    await randomPause();
    say("ready");
  },

  "throw while a sleep waits": async () => {
    await holdSleep();
    say("ready");
    setTimeout(() => {
      throw new Error("thrown on purpose");
    });
  },
  "throw in mid-copy": () =>
    inMidCopy("sleep", () => {
      say("ready");
      setImmediate(() => {
        throw new Error("thrown on purpose");
      });
    }),
  "reject in mid-copy": () =>
    inMidCopy("sleep", () => {
      say("ready");
      void Promise.reject(new Error("thrown on purpose"));
    }),

  "signal in mid-wake": () => inMidCopy("wakeUp", () => say("ready")),
  "signal aborts a wake-up": async () => {
    const { allocator, weights } = allocate(largeBytes);
    const controller = new AbortController();
    process.on("SIGINT", () => controller.abort());
    let started = false;
    const onProgress = () => {
      if (!started) say("ready");
      started = true;
    };
    const wakeUntilAborted = async () => {
      while (true) {
        await allocator.sleep();
        await allocator.wakeUp({ signal: controller.signal, onProgress });
      }
    };
    await assert.rejects(wakeUntilAborted(), { code: "ABORTED" });
    assert.equal(weights.state, "offloaded");
    await assertUsable(allocator, weights);
  },
  "signal while a sleep waits": async () => {
    await holdSleep();
    say("ready");
  },

  "throw inside useMemoryPool": async () => {
    const { allocator, weights } = allocate();
    const pluggable = openPluggable();
    const assertTagged = (tag: string) => {
      assert.equal(allocator.malloc(1).tag, tag);
      const before = allocator.getCurrentUsage(tag);
      pluggable.malloc(MiB, 0);
      assert(allocator.getCurrentUsage(tag) > before);
    };
    const failure = new Error("thrown on purpose");
    const body = () => {
      allocator.malloc(MiB);
      throw failure;
    };
    assert.throws(() => allocator.useMemoryPool("weights", body), failure);
    const asynchronous = async (pool: { malloc(sizeBytes: number): DeviceBuffer }) => {
      pool.malloc(MiB);
      await allocator.sleep();
      throw failure;
    };
    await assert.rejects(allocator.useMemoryPool("kv_cache", asynchronous), failure);
    assertTagged("default");
    const sleeping = allocator.useMemoryPool("weights", async () => {
      await allocator.wakeUp();
      void allocator.sleep().catch(() => undefined);
      throw failure;
    });
    await assert.rejects(sleeping, failure);
    assertTagged("default");
    await assertUsable(allocator, weights);
  },
  "using disposes": async () => {
    const before = accountingNow();
    {
      await using allocator = CaMemAllocator.getInstance();
      const opened = { reservations: accountingNow().reservations };
      {
        using _awake = allocator.malloc(MiB);
        using pooled = allocator.memoryPool("weights").malloc(MiB);
        pooled.fill(1);
        using freed = allocator.malloc(MiB);
        freed.free();
      }
      assert.equal(accountingNow().reservations, opened.reservations);
      {
        using _asleep = allocator.malloc(MiB, { tag: "weights" });
        await allocator.sleep();
      }
      assert.equal(accountingNow().reservations, opened.reservations);
      const sleeping = await (async () => {
        using moving = allocator.malloc(64 * MiB, { tag: "weights" });
        const started = allocator.sleep();
        await until(() => moving.state === "moving" || moving.state === "offloaded");
        return { started };
      })();
      await sleeping.started;
      await until(() => accountingNow().reservations === opened.reservations);
      allocator.malloc(MiB, { tag: "weights" });
    }
    assert.deepEqual(accountingNow(), before);
    const failure = new Error("thrown on purpose");
    const block = async () => {
      await using allocator = CaMemAllocator.getInstance();
      using buffer = allocator.malloc(MiB, { tag: "weights" });
      buffer.fill(1);
      await allocator.sleep();
      throw failure;
    };
    await assert.rejects(block, failure);
    // Disposed after the allocator, like a forgotten buffer.
    const late = async () => {
      using _buffer = await (async () => {
        await using allocator = CaMemAllocator.getInstance();
        return allocator.malloc(MiB);
      })();
    };
    await late();
    assertNothingHeld();
    say("nothing held");
  },

  "Worker terminated while its sleep waits": async () => {
    const { allocator, weights } = allocate();
    const held = holdDevice();
    const { worker, next } = startWorker("sleep");
    assert.equal(await next(), "asked");
    await until(() => weights.state === "moving");
    worker.terminate();
    assert.equal(await next(), "closed");
    assert.equal(weights.state, "moving");
    held.release();
    await assertUsable(allocator, weights);
  },
  "Worker terminated while it waits inside a call": async () => {
    const { allocator, weights } = allocate();
    const held = holdDevice();
    const { worker, next } = startWorker("free");
    assert.equal(await next(), "asked");
    await Bun.sleep(20);
    worker.terminate();
    await Bun.sleep(20);
    held.release();
    assert.equal(await next(), "closed");
    await assertUsable(allocator, weights);
  },
  "Worker terminated at any time": async () => {
    const { allocator, weights } = allocate();
    const { worker, next } = startWorker("cycle");
    assert.equal(await next(), "asked");
    await randomPause();
    worker.terminate();
    assert.equal(await next(), "closed");
    await assertUsable(allocator, weights);
  },
  "Worker exits while its sleep waits": async () => {
    const { allocator, weights } = allocate();
    const held = holdDevice();
    const { next } = startWorker("sleep and exit");
    assert.equal(await next(), "asked");
    assert.equal(await next(), "closed");
    held.release();
    await assertUsable(allocator, weights);
  },
  "Worker exits at any time": async () => {
    const { allocator, weights } = allocate();
    const { next } = startWorker("cycle and exit");
    assert.equal(await next(), "asked");
    assert.equal(await next(), "closed");
    await assertUsable(allocator, weights);
  },
  "exit while a Worker sleeps and wakes": async () => {
    allocate();
    const { next } = startWorker("cycle");
    assert.equal(await next(), "asked");
    await randomPause();
    say("ready");
    process.exit(0);
  },
};

function accountingNow() {
  return onEmulator ? accounting() : nothingHeld;
}

const ending = endings[process.argv[2] ?? ""];
if (ending === undefined) throw new Error(`there is no ending ${process.argv[2]}`);
// Not awaited: during the evaluation of a module Bun reports an uncaught error and continues.
void ending();
