/** Ordered wake-ups: what is used first is ready first, and all or nothing holds for the whole. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator, type DeviceBuffer, WakeUp } from "camem";
import {
  accounting,
  codeOf,
  failureOf,
  holdDevice,
  MiB,
  nothingHeld,
  onEmulator,
  openAscendCL,
  pattern,
  setFaults,
} from "../support/device.ts";

const layerBytes = 48 * MiB;
/** What is written, at the end of each layer. */
const markBytes = 2 * MiB;
const markOffset = layerBytes - markBytes;

let allocator: CaMemAllocator;
let layers: DeviceBuffer[];
let cache: DeviceBuffer;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  layers = Array.from({ length: 6 }, (_, index) => {
    const layer = allocator.malloc(layerBytes, { tag: "weights" });
    layer.write(pattern(markBytes, index), markOffset);
    return layer;
  });
  cache = allocator.malloc(4 * MiB, { tag: "kv_cache" });
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await allocator.close();
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
});

function expectIntact(): void {
  for (const [index, layer] of layers.entries())
    expect(Buffer.compare(layer.read(markOffset), pattern(markBytes, index))).toBe(0);
}

const layerOf = (index: number) => layers[index] as DeviceBuffer;

describe("order", () => {
  test("wakeUp() makes memory ready in the order of its use", async () => {
    await allocator.sleep();
    const finished: (number | string)[] = [];
    const wake = allocator.wakeUp({ order: layers.toReversed() });
    const ended = wake.then(() => finished.push("end"));
    const waits = layers.map((layer, index) => wake.ready(layer).then(() => finished.push(index)));
    await Promise.all([...waits, ended]);
    expect(finished).toEqual([5, 4, 3, 2, 1, 0, "end"]);
    expectIntact();
    expect(await wake).toMatchObject({ restoredBytes: 6 * layerBytes, lostTags: ["kv_cache"] });
  });

  test("wakeUp() takes tags and lists of buffers, and wakes what the order does not name last", async () => {
    allocator.defineTag("kv_cache", { 1: "offload" });
    cache.fill(9);
    await allocator.sleep();
    const finished: string[] = [];
    const wake = allocator.wakeUp({ order: ["kv_cache", [layerOf(3), layerOf(1)]] });
    await Promise.all([
      wake.ready("weights").then(() => finished.push("all")),
      wake.ready([layerOf(1), layerOf(3)]).then(() => finished.push("list")),
      wake.ready(cache).then(() => finished.push("cache")),
      wake,
    ]);
    expect(finished).toEqual(["cache", "list", "all"]);
    expectIntact();
    expect(cache.read(0, 1)).toEqual(new Uint8Array([9]));
  });

  test('wakeUp() with "loaded" makes memory ready in the order of its allocation', async () => {
    await allocator.sleep();
    const finished: number[] = [];
    const wake = allocator.wakeUp({ order: "loaded" });
    await Promise.all(layers.map((layer, index) => wake.ready(layer).then(() => finished.push(index))));
    expect(finished).toEqual([0, 1, 2, 3, 4, 5]);
    await wake;
    expectIntact();
  });

  test("ready() waits for the whole wake-up without an order", async () => {
    await allocator.sleep();
    const wake = allocator.wakeUp();
    await wake.ready(layerOf(0));
    expect(layerOf(0).state).toBe("mapped");
    expect(await wake).toMatchObject({ alreadyAwake: false });
  });

  test("ready() resolves at once for memory that is awake, and after the wake-up", async () => {
    const wake = allocator.wakeUp({ order: layers });
    await wake.ready(layerOf(2));
    expect(await wake).toMatchObject({ alreadyAwake: true });
    await wake.ready("weights");
  });

  test("wakeUp() returns a promise whose chains are plain promises", async () => {
    const wake = allocator.wakeUp();
    expect(wake).toBeInstanceOf(WakeUp);
    const chained = wake.then(() => 1);
    expect(chained).not.toBeInstanceOf(WakeUp);
    expect(await chained).toBe(1);
  });

  test("wakeUp() refuses an order that it cannot follow, and changes nothing", async () => {
    await allocator.sleep();
    for (const order of [[], "first", [1], [[layerOf(0), 2]], {}] as never[])
      expect((await failureOf(() => allocator.wakeUp({ order }))).message).toContain("order is");
    expect(await codeOf(() => allocator.wakeUp({ order: ["wieghts"] }))).toBe("UNKNOWN_TAG");
    const partly = await failureOf(() => allocator.wakeUp({ tags: ["kv_cache"], order: [layerOf(0)] }));
    expect(partly.message).toContain('order names memory under "weights", which tags leaves asleep');
    expect(allocator.isSleeping).toBe(true);
    const wake = allocator.wakeUp({ order: layers });
    expect(await codeOf(() => wake.ready(3 as never))).toBe("INVALID_ARGUMENT");
    for (const stream of [0, -1, 1.5, 0n, 2n ** 60n, "7"] as never[])
      expect((await failureOf(() => wake.streamWait(stream, layerOf(0)))).message).toContain("the stream is");
    await wake;
    expectIntact();
  });

  test.skipIf(!onEmulator)(
    "ready() resolves long before the wake-up ends, which can still be aborted",
    () => {
      const program = `
      import { CaMemAllocator } from "camem";
      const allocator = CaMemAllocator.getInstance();
      const layers = Array.from({ length: 10 }, () => allocator.malloc(${64 * MiB}, { tag: "weights" }));
      await allocator.sleep();
      const controller = new AbortController();
      const wake = allocator.wakeUp({ order: layers, signal: controller.signal });
      const outcome = (promise) => promise.then(() => "fulfilled", (error) => error.code);
      const last = outcome(wake.ready(layers[9]));
      await wake.ready(layers[0]);
      const state = layers[9].state;
      controller.abort();
      const ends = [await outcome(wake), await last, layers[0].state];
      await allocator.wakeUp({ order: layers });
      console.log(JSON.stringify([state, ...ends, layers[0].state]));`;
      // 64 ms for each layer.
      const env = { ...process.env, CAMEM_EMULATOR_TIMING: "h2d=1GiB/s,content=off" };
      const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", program], { env });
      expect([stdout.toString(), stderr.toString()]).toEqual([
        '["moving","ABORTED","ABORTED","offloaded","mapped"]\n',
        "",
      ]);
    },
  );

  test.skipIf(!onEmulator)("memory that is ready can be read and written while the rest is copied", () => {
    const program = `
      import { CaMemAllocator } from "camem";
      const allocator = CaMemAllocator.getInstance();
      const layers = Array.from({ length: 6 }, () => allocator.malloc(${64 * MiB}, { tag: "weights" }));
      const frozen = allocator.malloc(8, { tag: "frozen" });
      const cache = allocator.malloc(8, { tag: "kv_cache" });
      for (const [index, layer] of layers.entries()) layer.write(new Uint8Array([index + 1]), 5);
      frozen.fill(7);
      allocator.defineTag("frozen", { 1: "offload", immutable: true });
      await allocator.sleep();
      const attempt = (run) => { try { return run(); } catch (error) { return error.code; } };
      const wake = allocator.wakeUp({ order: [["kv_cache", frozen], ...layers] });
      await wake.ready(layers[0]);
      cache.fill(3);
      const found = {
        content: layers[0].read(5, 1)[0],
        cache: cache.read(0, 1)[0],
        frozen: [frozen.read(0, 1)[0], attempt(() => frozen.fill(1))],
        write: attempt(() => layers[0].write(new Uint8Array([9]), 6)),
        last: attempt(() => layers[5].read(5, 1)[0]),
        state: layers[5].state,
      };
      await wake;
      const after = [layers[0].read(5, 2), cache.read(0, 1), layers[5].read(5, 1)].map((bytes) => [...bytes]);
      console.log(JSON.stringify({ ...found, after }));`;
    // 32 ms for each layer.
    const env = { ...process.env, CAMEM_EMULATOR_TIMING: "h2d=2GiB/s" };
    const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", program], { env });
    expect(stderr.toString()).toBe("");
    expect(JSON.parse(stdout.toString())).toEqual({
      content: 1,
      cache: 3,
      frozen: [7, "BUFFER_MOVING"],
      last: "BUFFER_MOVING",
      state: "moving",
      after: [[1, 9], [3], [6]],
    });
  });

  test.skipIf(!onEmulator)(
    "what is written to ready memory stays when its tag becomes immutable meanwhile",
    () => {
      const program = `
      import { CaMemAllocator } from "camem";
      const allocator = CaMemAllocator.getInstance();
      const [first, ...rest] = Array.from({ length: 6 }, (_, index) =>
        allocator.malloc(${64 * MiB}, { tag: index === 0 ? "state" : "weights" }));
      first.fill(1);
      allocator.defineTag("state", { 1: "offload" });
      await allocator.sleep();
      const wake = allocator.wakeUp({ order: [first, ...rest] });
      await wake.ready(first);
      first.write(new Uint8Array([99]), 6);
      allocator.defineTag("state", { immutable: true });
      await wake;
      const found = [first.immutable, first.read(6, 1)[0]];
      await allocator.sleep();
      await allocator.wakeUp();
      console.log(JSON.stringify([...found, first.read(6, 1)[0]]));`;
      const env = { ...process.env, CAMEM_EMULATOR_TIMING: "h2d=2GiB/s" };
      const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", program], { env });
      expect([stdout.toString(), stderr.toString()]).toEqual(["[true,99,99]\n", ""]);
    },
  );

  test("ready() in an afterWake hook resolves at once", async () => {
    await allocator.sleep();
    let started: WakeUp | undefined;
    const remove = allocator.onTransition({ afterWake: () => started?.ready(layerOf(5)) });
    started = allocator.wakeUp({ order: layers });
    await started;
    remove();
  });

  test("ready() refuses memory that the wake-up does not bring back, and the wake-up succeeds", async () => {
    await allocator.sleep();
    const wake = allocator.wakeUp({ tags: ["weights"], order: ["weights"] });
    expect(await codeOf(() => wake.ready(cache))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(() => wake.ready("wieghts"))).toBe("UNKNOWN_TAG");
    expect(await codeOf(() => wake.ready("x".repeat(500)))).toBe("INVALID_TAG");
    await wake;
    expect(await codeOf(() => allocator.wakeUp({ tags: ["wieghts"] }))).toBe("UNKNOWN_TAG");
    const freed = allocator.malloc(1, { tag: "weights" });
    freed.free();
    expect(await codeOf(() => allocator.wakeUp().ready(freed))).toBe("BUFFER_FREED");
  });

  test.skipIf(!onEmulator)(
    "wakeUp() that fails leaves no event behind and no rejection unhandled",
    async () => {
      const unhandled: unknown[] = [];
      const note = (error: unknown) => unhandled.push(error);
      process.on("unhandledRejection", note);
      await allocator.sleep();
      let events = 0;
      for (let round = 0; round < 4; round++) {
        setFaults("aclrtMemcpyAsync.task:9=507899");
        await failureOf(() => allocator.wakeUp({ order: layers }).ready(layerOf(5)));
        setFaults("");
        // The wake-up itself ends at once.
        while (layerOf(0).state === "moving") await sleep(0);
        events ||= accounting().events;
      }
      expect(accounting().events).toBeLessThanOrEqual(2 * events);
      await sleep(0);
      process.off("unhandledRejection", note);
      expect(unhandled).toEqual([]);
      await allocator.wakeUp();
      expectIntact();
    },
  );

  test.skipIf(!onEmulator)("wakeUp() rejects every wait when a late copy fails", async () => {
    await allocator.sleep();
    setFaults("aclrtMemcpyAsync.task:9=507899");
    const wake = allocator.wakeUp({ order: layers });
    const last = failureOf(() => wake.ready(layerOf(5)));
    expect((await failureOf(() => wake)).code).toBe("ACL_CALL_FAILED");
    expect((await last).code).toBe("ACL_CALL_FAILED");
    setFaults("");
    expect(allocator.usage()["weights"]).toMatchObject({ state: "asleep" });
    await allocator.wakeUp({ order: layers });
    expectIntact();
  });
});

describe("streamWait", () => {
  interface Engine {
    readonly stream: number;
    /** Copies the mark of a layer to the host on the stream, and returns where it will be. */
    copy(layer: DeviceBuffer): Uint8Array;
    synchronize(): void;
    [Symbol.dispose](): void;
  }

  /** An engine that has a stream of its own. */
  function engine(): Engine {
    const acl = openAscendCL(allocator.backend.library);
    const handle = new BigUint64Array(1);
    expect(acl.aclrtSetDevice(0)).toBe(0);
    expect(acl.aclrtCreateStream(handle)).toBe(0);
    const stream = Number(handle[0]);
    return {
      stream,
      copy(layer) {
        const target = new Uint8Array(markBytes);
        const from = layer.ptr + markOffset;
        expect(acl.aclrtMemcpyAsync(target, markBytes, from, markBytes, 2, stream)).toBe(0);
        return target;
      },
      synchronize: () => expect(acl.aclrtSynchronizeStream(stream)).toBe(0),
      [Symbol.dispose]() {
        expect(acl.aclrtDestroyStream(stream)).toBe(0);
        expect(acl.aclrtResetDevice(0)).toBe(0);
      },
    };
  }

  test("streamWait() makes a stream wait for each layer while later ones are copied", async () => {
    using own = engine();
    for (let round = 0; round < 3; round++) {
      await allocator.sleep();
      const wake = allocator.wakeUp({ order: layers });
      const copies: Uint8Array[] = [];
      for (const layer of layers) {
        await wake.streamWait(own.stream, layer);
        copies.push(own.copy(layer));
      }
      own.synchronize();
      for (const [index, copy] of copies.entries())
        expect(Buffer.compare(copy, pattern(markBytes, index))).toBe(0);
      await wake;
    }
  });

  test.skipIf(!onEmulator)(
    "streamWait() waits until the copies have arrived when no event can be made",
    async () => {
      using own = engine();
      await allocator.sleep();
      setFaults("aclrtRecordEvent:1+=507899");
      const wake = allocator.wakeUp({ order: layers });
      for (const [index, layer] of layers.entries()) {
        await wake.streamWait(own.stream, layer);
        const copy = own.copy(layer);
        own.synchronize();
        expect(Buffer.compare(copy, pattern(markBytes, index))).toBe(0);
      }
      await wake;
    },
  );

  test.skipIf(!onEmulator)(
    "streamWait() rejects when AscendCL refuses, and the wake-up succeeds",
    async () => {
      using own = engine();
      await allocator.sleep();
      setFaults("aclrtStreamWaitEvent:1+=507899");
      const wake = allocator.wakeUp({ order: layers });
      const outcomes = await Promise.allSettled(layers.map((layer) => wake.streamWait(own.stream, layer)));
      const codes = outcomes.map((outcome) =>
        outcome.status === "rejected" ? outcome.reason.code : "ready",
      );
      expect(codes).toContain("ACL_CALL_FAILED");
      await wake;
      expectIntact();
    },
  );

  test.skipIf(!onEmulator)(
    "wakeUp() that fails unmaps nothing before the device has finished its work",
    async () => {
      using own = engine();
      await allocator.sleep();
      const held = holdDevice();
      setFaults("aclrtMemcpyAsync.task:9=507899");
      const wake = allocator.wakeUp({ order: layers });
      const outcome = codeOf(() => wake);
      await wake.streamWait(own.stream, layerOf(0)).catch(() => undefined);
      await sleep(200);
      expect(accounting().physicalBytes).toBeGreaterThan(layerBytes);
      expect(layerOf(0).state).toBe("moving");
      held.release();
      expect(await outcome).toBe("ACL_CALL_FAILED");
      expect(layerOf(0).state).toBe("offloaded");
      setFaults("");
      await allocator.wakeUp();
      expectIntact();
    },
  );

  test("streamWait() serves a stream whose work is behind other work of the engine", async () => {
    using own = engine();
    await allocator.sleep();
    const wake = allocator.wakeUp({ order: layers });
    await wake.streamWait(own.stream, layerOf(0));
    const held = holdDevice();
    const copy = own.copy(layerOf(0));
    held.release();
    own.synchronize();
    expect(Buffer.compare(copy, pattern(markBytes, 0))).toBe(0);
    await wake;
  });
});
