/** The routes below /camem, over real HTTP. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MiB, onEmulator, setFaults } from "../../support/device.ts";
import { until } from "../../support/fake-engine.ts";
import { eventsOf } from "../../support/test-server.ts";
import { errorOf, errorShape, HandlerFixture } from "./handler-fixture.ts";

let fixture: HandlerFixture;

beforeEach(() => {
  fixture = new HandlerFixture();
});

afterEach(() => fixture.close());

describe("routes below /camem", () => {
  test("/camem/usage reports memory by engine, tag and device", async () => {
    const { freeBytes, totalBytes } = fixture.allocator.memGetInfo();
    const [status, body] = await fixture.server.json("/camem/usage");
    expect([status, body]).toMatchObject([
      200,
      {
        engines: {
          default: {
            status: { engine: "default", state: "awake" },
            tags: { weights: { mappedBytes: 4 * MiB, state: "awake" }, kv_cache: { mappedBytes: 6 * MiB } },
          },
        },
        devices: [{ device: 0, freeBytes, totalBytes }],
        host: { pageLockedBytes: 0, freeBytes: 0 },
      },
    ]);
    await fixture.controller.sleep();
    const { pageLockedBytes } = fixture.allocator.hostUsage();
    expect(pageLockedBytes).toBeGreaterThan(0);
    expect((await fixture.server.json("/camem/usage"))[1]).toMatchObject({ host: { pageLockedBytes } });
  });

  test.if(onEmulator)("/camem/usage reports an engine whose device is lost", async () => {
    await fixture.controller.sleep();
    setFaults("*:1+=507010");
    expect(await errorOf(fixture.server.postJson("/wake_up"))).toEqual([500, null]);
    const usage = await fixture.server.json("/camem/usage");
    setFaults("");
    expect(usage).toMatchObject([
      200,
      {
        engines: { default: { status: { state: "failed", failure: { code: "DEVICE_LOST" } } } },
        devices: [],
      },
    ]);
  });

  test("/camem/usage and /camem/events answer when the allocator is closed", async () => {
    await fixture.allocator.close();
    expect((await fixture.server.post("/sleep")).status).toBe(503);
    const engines = { default: { status: { state: "failed", failure: { code: "CLOSED" } }, tags: {} } };
    expect(await fixture.server.json("/camem/usage")).toMatchObject([200, { engines, devices: [] }]);
    expect((await fixture.server.fetch("/camem/events")).status).toBe(200);
  });

  test("/camem/plan returns a plan and moves nothing", async () => {
    expect(await fixture.server.json("/camem/plan?op=sleep&level=2")).toMatchObject([
      200,
      { fits: true, tags: { weights: { discardBytes: 4 * MiB } } },
    ]);
    await fixture.controller.sleep();
    expect(await fixture.server.json("/camem/plan?op=wake&tags=kv_cache")).toMatchObject([
      200,
      { fits: true, devices: [{ device: 0, neededBytes: 6 * MiB }] },
    ]);
    expect(await errorOf(fixture.server.json("/camem/plan"))).toEqual([400, "query.op"]);
    expect(await errorOf(fixture.server.json("/camem/plan?op=nap"))).toEqual([400, "query.op"]);
  });

  test("/camem/events sends a snapshot, then transitions with their progress", async () => {
    const response = await fixture.server.fetch("/camem/events");
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    const seen: string[] = [];
    for await (const { event, data } of eventsOf(response)) {
      if (event === "snapshot") {
        expect(data.engines.default.status.state).toBe("awake");
        void fixture.server.post("/sleep");
      }
      if (event === "state") seen.push(data.status.state);
      if (event === "transition-progress" && data.progress.phase === "done") seen.push("progress");
      if (event !== "transition-ended") continue;
      expect(data).toMatchObject({
        operation: "sleep",
        outcome: "done",
        report: { offloadedBytes: 4 * MiB },
      });
      break;
    }
    expect(seen).toEqual(["falling-asleep", "progress", "asleep"]);
  });

  test("/camem/events thins out request events to the latest", async () => {
    const response = await fixture.server.fetch("/camem/events");
    const counts: number[] = [];
    for await (const { event, data } of eventsOf(response)) {
      if (event === "snapshot")
        for (let index = 0; index < 50; index++) (await fixture.controller.admit()).release();
      if (event !== "requests") continue;
      counts.push(data.requests.admittedTotal);
      if (data.requests.admittedTotal === 50) break;
    }
    expect(counts.length).toBeLessThan(10);
  });

  test("/camem/events answers 503 beyond its limit of streams until one ends", async () => {
    const clients = Array.from({ length: 64 }, () => new AbortController());
    // A response that is collected closes its stream.
    const open: Response[] = [];
    for (const { signal } of clients) open.push(await fixture.server.fetch("/camem/events", { signal }));
    expect(open.map(({ status }) => status)).toEqual(open.map(() => 200));
    const refused = await fixture.server.fetch("/camem/events");
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "5"]);
    expect(await refused.json()).toMatchObject(errorShape(503));
    clients[0]?.abort();
    while ((await fixture.server.fetch("/camem/events")).status !== 200) await sleep(1);
    for (const client of clients) client.abort();
  });

  test("/camem/events sends heartbeats and unsubscribes when its client disconnects", async () => {
    await fixture.restart({}, { heartbeatMs: 5 });
    let listeners = 0;
    const { subscribe } = fixture.controller;
    fixture.controller.subscribe = (listener) => {
      const unsubscribe = subscribe.call(fixture.controller, listener);
      listeners++;
      return () => {
        listeners--;
        unsubscribe();
      };
    };
    const client = new AbortController();
    const response = await fixture.server.fetch("/camem/events", { signal: client.signal });
    let text = "";
    try {
      for await (const chunk of response.body ?? []) {
        text += new TextDecoder().decode(chunk);
        if (!text.includes(": still here\n\n")) continue;
        expect(listeners).toBe(1);
        client.abort();
      }
    } catch (error) {
      expect(error).toMatchObject({ name: "AbortError" });
    }
    await until(() => listeners === 0);
  });
});
