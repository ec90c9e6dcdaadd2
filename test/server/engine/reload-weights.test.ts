/** Loading the weights anew while the engine is awake, and sleeps that keep chosen tags. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { ReloadContext } from "camem/server";
import { codeOf } from "../../support/device.ts";
import { until } from "../../support/fake-engine.ts";
import { ControllerFixture } from "./controller-fixture.ts";

let fixture: ControllerFixture;

beforeEach(() => {
  fixture = new ControllerFixture();
});

afterEach(() => fixture.close());

describe("reloadWeights()", () => {
  const codeOfReload = (options = {}) => codeOf(() => fixture.controller.reloadWeights(options));

  test("passes the tags and the checkpoint to reload, and serves afterwards", async () => {
    const contexts: ReloadContext[] = [];
    await fixture.restart({ reload: (context) => void contexts.push(context) });
    await fixture.controller.reloadWeights({ modelPath: "/new" });
    await fixture.controller.reloadWeights();
    expect(contexts.map(({ tags, modelPath }) => [tags, modelPath])).toEqual([
      [["weights"], "/new"],
      [["weights"], undefined],
    ]);
    expect(fixture.states).toEqual(["awaiting-weights", "awake", "awaiting-weights", "awake"]);
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("throws INVALID_CONFIG without reload", async () => {
    expect(await codeOfReload()).toBe("INVALID_CONFIG");
  });

  test("throws STATE_CONFLICT while the weights are asleep, and leaves them so", async () => {
    await fixture.restart({ reload: () => fixture.engine.load() });
    await fixture.controller.sleep();
    expect(await codeOfReload()).toBe("STATE_CONFLICT");
    await fixture.controller.wakeUp({ tags: ["weights"] });
    await fixture.controller.reloadWeights();
    expect(fixture.controller.status.state).toBe("asleep");
  });

  test("throws TIMED_OUT when requests do not end, and loses nothing", async () => {
    await fixture.restart({ reload: () => fixture.engine.load() });
    using lease = await fixture.controller.admit();
    expect(await codeOfReload({ deadlineMs: 5 })).toBe("TIMED_OUT");
    expect(lease.signal.aborted).toBe(false);
    expect(await fixture.complete()).toBe(fixture.expected());
    expect(fixture.controller.status).toMatchObject({ state: "awake", awaitingTags: [] });
  });

  test("counts the weights as lost once reload has thrown", async () => {
    let fails = true;
    await fixture.restart({
      reload: () => {
        if (fails) throw new Error("half a file");
        fixture.engine.load();
      },
    });
    expect(await codeOfReload()).toBe("HOOK_FAILED");
    expect(fixture.controller.status).toMatchObject({ state: "awaiting-weights", awaitingTags: ["weights"] });
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
    fails = false;
    await fixture.controller.reloadWeights();
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("throws CALLED_FROM_HOOK within reload instead of waiting for itself", async () => {
    const codes: unknown[] = [];
    await fixture.restart({
      reload: async () => {
        for (const call of [
          () => fixture.controller.reloadWeights(),
          () => fixture.controller.sleep(),
          () => fixture.controller.wakeUp(),
        ])
          codes.push(await codeOf(call));
        fixture.engine.load();
      },
    });
    await fixture.controller.reloadWeights();
    expect(codes).toEqual(["CALLED_FROM_HOOK", "CALLED_FROM_HOOK", "CALLED_FROM_HOOK"]);
    expect(await fixture.complete()).toBe(fixture.expected());
  });
});

describe("sleep({ offloadTags })", () => {
  const states = () => [fixture.engine.weights.state, fixture.engine.cache.state];

  test("offloads exactly these tags, and has level 1 where the weights are kept", async () => {
    expect(await fixture.controller.sleep({ offloadTags: ["weights", "kv_cache"] })).toMatchObject({
      level: 1,
    });
    expect(states()).toEqual(["offloaded", "offloaded"]);
    expect(await fixture.controller.sleep({ offloadTags: ["kv_cache"] })).toMatchObject({ level: 2 });
    expect(states()).toEqual(["discarded", "offloaded"]);
    expect(await codeOf(() => fixture.controller.sleep({ offloadTags: ["weights"] }))).toBe("STATE_CONFLICT");
    expect(await fixture.controller.sleep({ offloadTags: [] })).toMatchObject({ level: 2 });
    expect(states()).toEqual(["discarded", "discarded"]);
  });

  test("keeps to the engine's own names, and leaves other tags as they are", async () => {
    await fixture.restart({ tags: { weights: "weights", cache: "kv_cache" } });
    await fixture.controller.sleep({ tags: ["cache"], offloadTags: ["cache"] });
    expect(states()).toEqual(["mapped", "offloaded"]);
    expect(fixture.controller.status).toMatchObject({ level: 1, sleepingTags: ["cache"] });
    expect(await codeOf(() => fixture.controller.sleep({ offloadTags: ["kv_cache"] }))).toBe("UNKNOWN_TAG");
    expect(await codeOf(() => fixture.controller.sleep({ level: 1, offloadTags: [] }))).toBe(
      "INVALID_ARGUMENT",
    );
  });

  test("keeps the content when a wake-up goes back to sleep because reload threw", async () => {
    let fails = true;
    await fixture.restart({
      reload: () => {
        if (fails) throw new Error("no file");
        fixture.engine.load();
      },
    });
    fixture.engine.cache.fill(7);
    await fixture.controller.sleep({ offloadTags: ["kv_cache"] });
    expect(await codeOf(() => fixture.controller.wakeUp())).toBe("HOOK_FAILED");
    expect(states()).toEqual(["discarded", "offloaded"]);
    fails = false;
    await fixture.controller.wakeUp();
    expect(fixture.engine.cache.read(0, 4)).toEqual(new Uint8Array(4).fill(7));
  });
});

test("abortRequests() aborts the requests in flight and refuses those that are held", async () => {
  await fixture.restart({ whenAsleep: "hold" });
  const lease = await fixture.controller.admit();
  const pausing = fixture.controller.pause({ mode: "keep" });
  await until(() => fixture.controller.isPaused);
  const parked = lease.checkpoint();
  await pausing;
  const held = codeOf(() => fixture.controller.admit());
  expect(fixture.controller.abortRequests()).toBe(2);
  expect(await Promise.all([held, codeOf(() => parked)])).toEqual(["ABORTED", "ABORTED"]);
  expect(fixture.controller.isPaused).toBe(true);
  lease.release();
});
