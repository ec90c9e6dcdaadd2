/** Requests that are admitted while a wake-up in an order still copies. */

import { expect, test } from "bun:test";
import { CaMemAllocator } from "camem";
import { SleepController } from "camem/server";
import { failureOf, MiB, onEmulator } from "../../support/device.ts";
import { evaluate } from "../../support/program.ts";

/** Runs `body` where each of six layers takes 32 ms to copy, and returns what it passes to `print`. */
function run(body: string): Promise<unknown> {
  const program = `
    import { CaMemAllocator } from "camem";
    import { ModelPool, SleepController } from "camem/server";
    import { setFaults } from "./test/support/device.ts";
    const allocator = CaMemAllocator.getInstance();
    const layers = Array.from({ length: 6 }, () => allocator.malloc(${64 * MiB}, { tag: "weights" }));
    for (const [index, layer] of layers.entries()) layer.write(new Uint8Array([index + 1]));
    const cache = allocator.malloc(8, { tag: "kv_cache" });
    const order = () => [["kv_cache", layers[0]], ...layers.slice(1)];
    const controller = new SleepController(allocator, { order, whenAsleep: "wake" });
    const codeOf = (promise) => promise.then(() => "done", (error) => error.code);
    const print = (value) => console.log(JSON.stringify(value));
    await controller.sleep({ reason: "idle" });
    ${body}
    await controller.close();
    await allocator.close();`;
  return evaluate(program, "h2d=2GiB/s");
}

test.skipIf(!onEmulator)(
  "admit() resolves when the first memory is back, and the lease waits for the rest",
  async () => {
    const found = await run(`
    const lease = await controller.admit();
    const begun = [controller.status.state, controller.disposition, layers[5].state];
    await lease.ready(layers[0]);
    const first = layers[0].read(0, 1)[0];
    cache.fill(9);
    await lease.ready(layers[5]);
    const last = layers[5].read(0, 1)[0];
    const [other] = await Promise.all([controller.admit(), controller.wakeUp()]);
    await other.ready(layers[3]);
    print({ begun, first, last, cache: cache.read(0, 1)[0], state: controller.status.state });
    lease.release();
    other.release();`);
    expect(found).toEqual({
      begun: ["waking", "admit", "moving"],
      first: 1,
      last: 6,
      cache: 9,
      state: "awake",
    });
  },
);

test.skipIf(!onEmulator)("a lease ends with the failure of the wake-up that it was admitted in", async () => {
  const found = await run(`
    setFaults("aclrtMemcpyAsync.task:9=507899");
    const lease = await controller.admit();
    const begun = controller.status.state;
    const aborted = new Promise((resolve) => lease.signal.addEventListener("abort", resolve));
    const outcome = await codeOf(lease.ready(layers[5]));
    await aborted;
    const { reason } = lease.signal;
    const atCheckpoint = await codeOf(lease.checkpoint());
    lease.release();
    setFaults("");
    await controller.wakeUp();
    using again = await controller.admit();
    const content = layers.map((layer) => layer.read(0, 1)[0]);
    print({ begun, outcome, reason: [reason.code, reason.cause.code], atCheckpoint, content,
      aborted: controller.status.requests.abortedTotal });`);
  expect(found).toEqual({
    begun: "waking",
    outcome: "ACL_CALL_FAILED",
    reason: ["ABORTED", "ACL_CALL_FAILED"],
    atCheckpoint: "ABORTED",
    content: [1, 2, 3, 4, 5, 6],
    aborted: 1,
  });
});

test.skipIf(!onEmulator)("a sleep waits for the requests that were admitted during the wake-up", async () => {
  const found = await run(`
    const lease = await controller.admit();
    const asleep = controller.sleep({ mode: "wait" });
    await lease.ready(layers[5]);
    await new Promise((resolve) => setTimeout(resolve, 30));
    const during = controller.status.state;
    const content = layers[5].read(0, 1)[0];
    lease.release();
    await asleep;
    print({ during, content, state: controller.status.state });`);
  expect(found).toEqual({ during: "falling-asleep", content: 6, state: "asleep" });
});

test.skipIf(!onEmulator)(
  "requests that were parked go on when all memory is back, and learn what is lost",
  async () => {
    const found = await run(`
    await controller.wakeUp();
    const parked = await controller.admit();
    const asleep = controller.sleep({ mode: "keep", reason: "idle" });
    while (controller.status.state !== "falling-asleep") await Bun.sleep(0);
    const resumed = parked.checkpoint();
    await asleep;
    const early = await controller.admit();
    const begun = controller.status.state;
    const first = await Promise.race([resumed.then(() => "parked"), early.ready(layers[0]).then(() => "early")]);
    const result = await resumed;
    print({ begun, first, result, state: controller.status.state });
    early.release();
    parked.release();`);
    expect(found).toEqual({
      begun: "waking",
      first: "early",
      result: { parked: true, lostTags: ["kv_cache"] },
      state: "awake",
    });
  },
);

test.skipIf(!onEmulator)(
  "no request is admitted early where weights are lost or memory stays asleep",
  async () => {
    const found = await run(`
    await controller.wakeUp();
    await controller.sleep({ level: 2, reason: "idle" });
    const refused = await codeOf(controller.admit());
    await controller.wakeUp();
    await controller.confirmWeights();
    await controller.sleep({ level: 1 });
    const held = controller.admit();
    const states = [];
    controller.subscribe((event) => {
      if (event.type === "requests" && event.requests.running > 0) states.push(controller.status.sleepingTags);
    });
    await controller.wakeUp({ tags: ["weights"] });
    print({ refused, states, asleep: controller.status.sleepingTags });
    await controller.wakeUp();
    (await held).release();`);
    expect(found).toEqual({ refused: "ENGINE_UNAVAILABLE", states: [], asleep: ["kv_cache"] });
  },
);

test.skipIf(!onEmulator)(
  "ModelPool passes requests to an engine that admits them during its wake-up",
  async () => {
    const found = await run(`
    const pool = new ModelPool([controller], { wakeOperatorSleep: true });
    const leases = await Promise.all([pool.admit("default"), pool.admit("default")]);
    const begun = controller.status.state;
    const later = await pool.admit("default");
    await later.ready(layers[5]);
    await leases[0].ready(layers[5]);
    const content = layers[5].read(0, 1)[0];
    for (const lease of [...leases, later]) lease.release();
    while (controller.status.state === "waking") await Bun.sleep(1);
    print({ begun, content, state: controller.status.state, requests: controller.status.requests });
    await pool.close();`);
    expect(found).toMatchObject({
      begun: "waking",
      content: 6,
      state: "awake",
      requests: { running: 0, waiting: 0, admittedTotal: 3, abortedTotal: 0 },
    });
  },
);

test.skipIf(!onEmulator)(
  "a request that enters during a wake-up does not halt for the sleep before it",
  async () => {
    const found = await run(`
    await controller.wakeUp();
    await controller.sleep({ mode: "keep", reason: "idle" });
    using lease = await controller.admit();
    await lease.ready("kv_cache");
    const result = await lease.checkpoint();
    print({ result, state: controller.status.state });`);
    expect(found).toEqual({ result: { parked: false, lostTags: [] }, state: "waking" });
  },
);

test.skipIf(!onEmulator)(
  "a lease outlives a wake-up whose last step fails when all memory is back",
  async () => {
    const found = await run(`
    setFaults("aclrtFreeHost:1+=507899");
    using lease = await controller.admit();
    const begun = controller.status.state;
    const pending = codeOf(lease.ready(layers[5]));
    while (controller.status.state === "waking") await Bun.sleep(1);
    const outcomes = [await pending, await codeOf(lease.ready(layers[3]))];
    setFaults("");
    print({ begun, outcomes, aborted: lease.signal.aborted, state: controller.status.state });`);
    expect(found).toEqual({ begun: "waking", outcomes: ["done", "done"], aborted: false, state: "awake" });
  },
);

test.skipIf(!onEmulator)("the signal of a lease is aborted before ready() rejects", async () => {
  const found = await run(`
    setFaults("aclrtMemcpyAsync.task:9=507899");
    const outcome = async () => {
      using lease = await controller.admit();
      try {
        await lease.ready(layers[5]);
      } catch {
        return lease.signal.aborted;
      }
    };
    const aborted = await Promise.all([outcome(), outcome(), outcome()]);
    print({ aborted, total: controller.status.requests.abortedTotal });
    setFaults("");`);
  expect(found).toEqual({ aborted: [true, true, true], total: 3 });
});

test.skipIf(!onEmulator)("no request enters while a failed wake-up is undone", async () => {
  const found = await run(`
    const { holdDevice } = await import("./test/support/device.ts");
    setFaults("aclrtMemcpyAsync.task:9=507899");
    const lease = await controller.admit();
    const held = holdDevice();
    const seen = [];
    controller.subscribe((event) => {
      if (event.type === "transition-progress" && event.progress.phase === "undoing") seen.push("undoing");
    });
    while (seen.length === 0) await Bun.sleep(1);
    await Bun.sleep(5);
    const disposition = controller.disposition;
    held.release();
    await codeOf(lease.ready(layers[5]));
    lease.release();
    setFaults("");
    print(disposition);`);
  expect(found).toBe("hold");
});

test.skipIf(!onEmulator)("order and ready() have the engine's own names of its tags", async () => {
  const found = await run(`
    await controller.wakeUp();
    await controller.close();
    const tags = { model: "weights", cache: "kv_cache" };
    const shared = allocator.malloc(8, { tag: "sleep_persistent" });
    const own = new SleepController(allocator, {
      tags, weightTags: ["model"], order: [["cache", shared], "model"], whenAsleep: "wake",
    });
    await own.sleep({ reason: "idle" });
    using lease = await own.admit();
    const begun = own.status.state;
    await lease.ready(["cache", shared]);
    await lease.ready("model");
    const wrong = [await codeOf(lease.ready("weights")), await codeOf(lease.ready(7)), await codeOf(lease.streamWait(0, "model"))];
    print({ begun, wrong });
    lease.release();
    await own.close();`);
  expect(found).toEqual({
    begun: "waking",
    wrong: ["UNKNOWN_TAG", "INVALID_ARGUMENT", "INVALID_ARGUMENT"],
  });
});

test.skipIf(!onEmulator)("an order that throws fails the wake-up, and the next one asks again", async () => {
  const found = await run(`
    await controller.wakeUp();
    await controller.close();
    let calls = 0;
    const own = new SleepController(allocator, {
      order: () => {
        if (++calls === 1) throw new Error("no order");
        return calls === 2 ? ["kv_cache", 5] : layers;
      },
    });
    await own.sleep();
    const error = await own.wakeUp().catch((cause) => cause);
    const wrong = await codeOf(own.wakeUp());
    await own.wakeUp();
    print({ code: error.code, cause: error.cause.message, wrong, calls, state: own.status.state });
    await own.close();`);
  expect(found).toEqual({
    code: "HOOK_FAILED",
    cause: "no order",
    wrong: "INVALID_ARGUMENT",
    calls: 3,
    state: "awake",
  });
});

test.skipIf(!onEmulator)(
  "held requests wait for weights that are loaded again, and for the end of a pause",
  async () => {
    const found = await run(`
    await controller.wakeUp();
    await controller.close();
    const states = [];
    const own = new SleepController(allocator, {
      order, whenAsleep: "wake", whenPaused: "hold", reload: () => states.push("reload"),
    });
    await own.sleep({ level: 2, reason: "idle" });
    own.subscribe((event) => {
      if (event.type === "requests" && event.requests.running > 0) states.push(own.status.state);
    });
    (await own.admit()).release();
    await own.pause();
    await own.sleep({ reason: "idle" });
    const held = own.admit();
    await own.wakeUp();
    states.push(own.status.state);
    await own.resume();
    (await held).release();
    print(states);
    await own.close();`);
    expect(found).toEqual(["reload", "awake", "paused", "awake"]);
  },
);

test.skipIf(!onEmulator)(
  "ModelPool admits requests in their order, and beyond its queue where they need not wait",
  async () => {
    const found = await run(`
    const pool = new ModelPool([controller], { wakeOperatorSleep: true, queueLimit: 5 });
    const entered = [];
    const leases = await Promise.all(
      [0, 1, 2, 3, 4].map((number) => pool.admit("default").then((lease) => (entered.push(number), lease))),
    );
    leases.push(await pool.admit("default"));
    const state = controller.status.state;
    for (const lease of leases) lease.release();
    while (controller.status.state === "waking") await Bun.sleep(1);
    print({ entered, state });
    await pool.close();`);
    expect(found).toEqual({ entered: [0, 1, 2, 3, 4], state: "waking" });
  },
);

test("SleepController refuses an order that is none, and one for an allocator without orders", async () => {
  await using allocator = CaMemAllocator.getInstance();
  for (const order of [[], "first", 1, [2]] as never[]) {
    const error = await failureOf(() => new SleepController(allocator, { order }));
    expect(error).toMatchObject({ code: "INVALID_CONFIG", property: "order" });
  }
  const other = Object.assign(Object.create(null), { wakeUp: async () => undefined });
  const error = await failureOf(() => new SleepController(other, { order: "loaded" }));
  expect(error.message).toContain("order needs a CaMemAllocator");
});
