/** The routes of vLLM and of SGLang, over real HTTP. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { onEmulator, setFaults } from "../../support/device.ts";
import { until } from "../../support/fake-engine.ts";
import { raw } from "../../support/test-server.ts";
import { errorOf, errorShape, HandlerFixture } from "./handler-fixture.ts";

let fixture: HandlerFixture;

beforeEach(() => {
  fixture = new HandlerFixture();
});

afterEach(() => fixture.close());

describe("routes of vLLM", () => {
  test("/sleep, /is_sleeping and /wake_up answer in vLLM's format", async () => {
    expect(await fixture.server.postJson("/sleep")).toEqual([200, { status: "sleeping", level: 1 }]);
    expect(await fixture.server.json("/is_sleeping")).toEqual([200, { is_sleeping: true }]);
    expect(fixture.engine.weights.state).toBe("offloaded");
    expect(await fixture.server.postJson("/wake_up")).toEqual([200, { status: "awake", tags: null }]);
    expect(await fixture.server.json("/is_sleeping")).toEqual([200, { is_sleeping: false }]);
    expect(await (await fixture.server.fetch("/complete")).text()).toBe(fixture.engine.expected("once", 8));
  });

  test("/sleep reads the level from the query or from JSON", async () => {
    for (const call of [
      () => fixture.server.postJson("/sleep?level=2&mode=wait"),
      () => fixture.server.postJson("/sleep", { level: 2 }),
      () => fixture.server.postJson("/sleep?level=2", { level: 1 }),
    ]) {
      expect(await call()).toEqual([200, { status: "sleeping", level: 2 }]);
      expect(fixture.engine.weights.state).toBe("discarded");
      await fixture.controller.wakeUp();
    }
    expect(await fixture.server.postJson("/sleep?level=0")).toEqual([200, { status: "sleeping", level: 0 }]);
    expect(await fixture.server.json("/is_paused")).toEqual([200, { is_paused: true }]);
    expect(await fixture.server.postJson("/wake_up?tags=scheduling")).toEqual([
      200,
      { status: "awake", tags: ["scheduling"], awaiting_weights: ["weights"] },
    ]);
  });

  test("/wake_up reports sleeping until the last tag is awake", async () => {
    await fixture.server.post("/sleep?level=2");
    expect(await fixture.server.postJson("/wake_up?tags=weights")).toEqual([
      200,
      { status: "sleeping", tags: ["weights"], awaiting_weights: ["weights"] },
    ]);
    expect(await fixture.server.json("/is_sleeping")).toEqual([200, { is_sleeping: true }]);
    expect((await fixture.server.fetch("/complete")).status).toBe(503);
    fixture.engine.load();
    expect(await fixture.server.postJson("/camem/confirm_weights")).toEqual([200, { status: "sleeping" }]);
    expect(await fixture.server.postJson("/wake_up", { tags: ["kv_cache"] })).toEqual([
      200,
      { status: "awake", tags: ["kv_cache"] },
    ]);
    expect(await (await fixture.server.fetch("/complete")).text()).toBe(fixture.engine.expected("once", 8));
    await fixture.server.post("/sleep?tags=weights&tags=kv_cache");
    expect(await fixture.server.postJson("/wake_up?tags=weights&tags=kv_cache")).toEqual([
      200,
      { status: "awake", tags: ["weights", "kv_cache"] },
    ]);
  });

  test("/sleep and /wake_up report a no-op", async () => {
    expect(await fixture.server.postJson("/wake_up")).toEqual([
      200,
      { status: "awake", tags: null, already_awake: true },
    ]);
    await fixture.server.post("/sleep");
    expect(await fixture.server.postJson("/sleep")).toEqual([
      200,
      { status: "sleeping", level: 1, already_sleeping: true },
    ]);
  });

  test("/pause, /resume and /is_paused answer in vLLM's format", async () => {
    expect(await fixture.server.postJson("/pause?mode=keep&clear_cache=false")).toEqual([
      200,
      { status: "paused" },
    ]);
    expect(await fixture.server.json("/is_paused")).toEqual([200, { is_paused: true }]);
    expect(await fixture.server.json("/is_sleeping")).toEqual([200, { is_sleeping: false }]);
    expect((await fixture.server.fetch("/complete")).status).toBe(503);
    expect(await fixture.server.postJson("/resume")).toEqual([200, { status: "resumed" }]);
    expect(await fixture.server.json("/is_paused")).toEqual([200, { is_paused: false }]);
    for (const yes of ["true", "True", "1"]) {
      const lease = await fixture.controller.admit();
      const paused = fixture.server.postJson(`/pause?wait_for_inflight_requests=${yes}&clear_cache=False`);
      await until(() => fixture.controller.isPaused);
      expect(lease.signal.aborted).toBe(false);
      lease.release();
      expect(await paused).toEqual([200, { status: "paused" }]);
      await fixture.server.post("/resume");
    }
  });

  test("/sleep answers 409 when asleep at a deeper level", async () => {
    await fixture.server.post("/sleep?level=2");
    const [status, body] = await fixture.server.postJson("/sleep?level=1");
    expect([status, body]).toMatchObject([
      409,
      { error: { type: "ConflictError", reason: "STATE_CONFLICT" } },
    ]);
    expect(JSON.stringify(body)).toContain("asleep at level 2");
  });

  test.if(onEmulator)("/wake_up answers 500 in vLLM's format when it fails", async () => {
    await fixture.server.post("/sleep");
    setFaults("aclrtMallocPhysical:1=207001");
    const [status, body] = await fixture.server.postJson("/wake_up");
    setFaults("");
    expect([status, body]).toMatchObject([500, errorShape(500)]);
    expect(body).toMatchObject({ error: { type: "InternalServerError", reason: "OUT_OF_DEVICE_MEMORY" } });
    expect(await fixture.server.json("/is_sleeping")).toEqual([200, { is_sleeping: true }]);
    expect(await fixture.server.postJson("/wake_up")).toEqual([200, { status: "awake", tags: null }]);
  });

  test("/sleep answers 504 when requests exceed its deadline, and changes nothing", async () => {
    const lease = await fixture.controller.admit();
    expect(await errorOf(fixture.server.postJson("/sleep?mode=wait&deadline_ms=5"))).toEqual([504, null]);
    expect(fixture.controller.status.state).toBe("awake");
    lease.release();
  });

  test("/health answers 200 without a token while asleep, when enabled", async () => {
    await fixture.restart({}, { health: true, token: "secret" });
    await fixture.controller.sleep();
    const response = await fixture.server.fetch("/health");
    expect([response.status, await response.text()]).toEqual([200, ""]);
  });
});

describe("routes of SGLang", () => {
  test.each(["GET", "POST"])(
    "/release_memory_occupation and /resume_memory_occupation accept %s",
    async (method) => {
      expect(await fixture.server.json("/release_memory_occupation", { method })).toEqual([200, null]);
      expect(fixture.engine.weights.state).toBe("offloaded");
      expect(await fixture.server.json("/resume_memory_occupation", { method })).toEqual([200, null]);
      expect(fixture.controller.status.state).toBe("awake");
    },
  );

  test("/release_memory_occupation and /resume_memory_occupation read tags from the body", async () => {
    await fixture.server.post("/release_memory_occupation", { tags: ["kv_cache"] });
    expect([fixture.engine.weights.state, fixture.engine.cache.state]).toEqual(["mapped", "discarded"]);
    await fixture.server.post("/release_memory_occupation", { tags: ["weights"] });
    await fixture.server.post("/resume_memory_occupation", { tags: ["weights"] });
    expect([fixture.engine.weights.state, fixture.engine.cache.state]).toEqual(["mapped", "discarded"]);
    await fixture.server.post("/resume_memory_occupation", { tags: null });
    expect(fixture.controller.status.state).toBe("awake");
  });

  test("tags that stand for no memory are accepted beside others and alone", async () => {
    const tags = ["kv_cache", "cuda_graph", "scheduling"];
    for (const [sleep, wake] of [
      ["/release_memory_occupation", "/resume_memory_occupation"],
      ["/sleep", "/wake_up"],
    ] as const) {
      expect((await fixture.server.post(sleep, { tags })).status).toBe(200);
      expect(fixture.controller.status.sleepingTags).toEqual(["kv_cache"]);
      expect((await fixture.server.post(wake, { tags })).status).toBe(200);
      expect(fixture.controller.status.state).toBe("awake");
      for (const path of [sleep, wake])
        expect((await fixture.server.post(path, { tags: ["cuda_graph"] })).status).toBe(200);
      expect(fixture.controller.status.state).toBe("awake");
    }
  });

  test("/release_memory_occupation sleeps memory that the engine has as cuda_graph", async () => {
    const graphs = fixture.allocator.malloc(1, { tag: "cuda_graph" });
    await fixture.server.post("/release_memory_occupation", { tags: ["cuda_graph"] });
    expect(graphs.state).toBe("discarded");
    await fixture.server.post("/resume_memory_occupation", { tags: ["cuda_graph"] });
    expect(graphs.state).toBe("mapped");
  });

  test("empty array of tags stands for all tags", async () => {
    for (const [sleep, wake] of [
      ["/release_memory_occupation", "/resume_memory_occupation"],
      ["/sleep", "/wake_up"],
    ] as const) {
      expect((await fixture.server.post(sleep, { tags: [] })).status).toBe(200);
      expect(fixture.controller.status.sleepingTags).toEqual(["weights", "kv_cache"]);
      expect((await fixture.server.post(wake, { tags: [] })).status).toBe(200);
      expect(fixture.controller.status.state).toBe("awake");
    }
  });

  test("/release_memory_occupation answers 400 to GET with a body", async () => {
    const body = '{"tags":["weights"]}';
    for (const framed of [
      `Content-Length: 20\r\n\r\n${body}`,
      `Transfer-Encoding: chunked\r\n\r\n14\r\n${body}\r\n0\r\n\r\n`,
    ]) {
      const head = "GET /release_memory_occupation HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
      expect(await raw(fixture.server.port, head + framed)).toStartWith("HTTP/1.1 400");
      expect(fixture.controller.status.state).toBe("awake");
    }
  });
});
