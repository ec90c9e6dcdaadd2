/** Requests to the model: admission, streaming, and disconnecting clients. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { type AdmitRequestOptions, admitRequest, leasedStream } from "camem/server";
import { failureOf, holdDevice } from "../../support/device.ts";
import { until } from "../../support/fake-engine.ts";
import { rejectionOf } from "../../support/rejection.ts";
import { HandlerFixture } from "./handler-fixture.ts";

let fixture: HandlerFixture;

beforeEach(() => {
  fixture = new HandlerFixture();
});

afterEach(() => fixture.close());

describe("admitRequest()", () => {
  test("admitRequest() answers 503 with Retry-After when the engine sleeps", async () => {
    await fixture.restart({ retryAfterSeconds: 7 });
    await fixture.controller.sleep();
    const response = await fixture.server.fetch("/complete");
    expect([response.status, response.headers.get("retry-after")]).toEqual([503, "7"]);
    expect(await response.json()).toMatchObject({
      error: { type: "ServiceUnavailableError", reason: "ENGINE_UNAVAILABLE", code: 503 },
    });
  });

  test("admitRequest() holds a request and wakes the engine when configured to", async () => {
    await fixture.restart({ whenAsleep: "wake", whenOperatorAsleep: "wake" });
    await fixture.server.post("/sleep");
    expect(await (await fixture.server.fetch("/complete")).text()).toBe(fixture.engine.expected("once", 8));
  });

  test("admitRequest() frees the place of a held request when its client disconnects", async () => {
    await fixture.restart({ whenAsleep: "hold", queueLimit: 1 });
    await fixture.server.post("/sleep");
    const client = new AbortController();
    const gone = fixture.server.fetch("/complete", { signal: client.signal }).catch((error) => error.name);
    await until(() => fixture.controller.status.requests.waiting === 1);
    expect((await fixture.server.fetch("/complete")).status).toBe(503);
    client.abort();
    expect(await gone).toBe("AbortError");
    await until(() => fixture.controller.status.requests.waiting === 0);
    const held = fixture.server.fetch("/complete");
    await until(() => fixture.controller.status.requests.waiting === 1);
    await fixture.server.post("/wake_up");
    expect(await (await held).text()).toBe(fixture.engine.expected("once", 8));
    expect(fixture.controller.status.requests).toMatchObject({ running: 0, admittedTotal: 1 });
  });

  test("leasedStream() releases its lease when the client disconnects", async () => {
    const client = new AbortController();
    const response = await fixture.server.fetch("/complete?stream&length=100000", { signal: client.signal });
    const reader = response.body?.getReader();
    await reader?.read();
    expect(fixture.controller.status.requests.running).toBe(1);
    client.abort();
    await until(() => fixture.controller.status.requests.running === 0);
    expect(await fixture.server.postJson("/sleep?mode=wait")).toMatchObject([200, { status: "sleeping" }]);
  });

  test("leasedStream() releases its lease when cancelled before the first read", async () => {
    const lease = await fixture.controller.admit();
    await leasedStream(lease, fixture.engine.generate(lease, "once", 8)).cancel();
    expect(fixture.controller.status.requests.running).toBe(0);
  });

  test("leasedStream() keeps its lease until the source has ended when cancelled in a step", async () => {
    const lease = await fixture.controller.admit();
    const begun = Promise.withResolvers<void>();
    const step = Promise.withResolvers<void>();
    const running: number[] = [];
    async function* source() {
      try {
        begun.resolve();
        await step.promise;
        yield "piece";
      } finally {
        await sleep(5);
        running.push(fixture.controller.status.requests.running);
      }
    }
    const stream = leasedStream(lease, source());
    await begun.promise;
    const cancelled = stream.cancel();
    step.resolve();
    await cancelled;
    expect(running).toEqual([1]);
    expect(fixture.controller.status.requests.running).toBe(0);
  });

  test("leasedStream() ends its source when the lease is aborted and nobody reads", async () => {
    const lease = await fixture.controller.admit();
    async function* source() {
      try {
        for await (const letter of fixture.engine.generate(lease, "once", 8)) yield letter;
      } catch {
        yield "the last word";
      }
    }
    const stream = leasedStream(lease, source());
    await sleep(5);
    expect(await fixture.controller.sleep({ mode: "abort", deadlineMs: 2000 })).toMatchObject({ level: 1 });
    const first = fixture.engine.expected("once", 1);
    expect(await new Response(stream).text()).toBe(`${first}the last word`);
  });

  test("leasedStream() cuts a source that goes on after its lease was aborted", async () => {
    for (const endless of [
      (async function* () {
        while (true) yield "more";
      })(),
      { [Symbol.asyncIterator]: () => ({ next: async () => ({ done: false, value: "more" }) }) },
    ] as AsyncIterable<string>[]) {
      const lease = await fixture.controller.admit();
      const reader = leasedStream(lease, endless).getReader();
      await reader.read();
      await fixture.controller.pause({ mode: "abort", deadlineMs: 2000 });
      await fixture.controller.resume();
      expect(await rejectionOf(reader.closed)).toBeUndefined();
    }
    expect(fixture.controller.status.requests.running).toBe(0);
  });

  test("leasedStream() ends by itself when the lease was aborted before", async () => {
    const client = new AbortController();
    const lease = await fixture.controller.admit(client.signal);
    client.abort();
    leasedStream(lease, fixture.engine.generate(lease, "once", 8));
    await until(() => fixture.controller.status.requests.running === 0);
  });

  test("/sleep in mode abort succeeds while a client does not read", async () => {
    const client = connect(fixture.server.port, "127.0.0.1");
    client.pause();
    client.write("GET /complete?stream&length=100000000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    await until(() => fixture.controller.status.requests.running === 1);
    await sleep(50);
    expect(await fixture.server.postJson("/sleep?mode=abort&deadline_ms=2000")).toMatchObject([200, {}]);
    client.destroy();
  });

  test("leasedStream() continues after a sleep in mode keep", async () => {
    const response = fixture.server.fetch("/complete?stream&length=5000");
    await until(() => fixture.controller.status.requests.running === 1);
    expect(await fixture.server.postJson("/sleep?mode=keep")).toMatchObject([200, { status: "sleeping" }]);
    expect(fixture.controller.status.requests.parked).toBe(1);
    await fixture.server.post("/wake_up");
    expect(await (await response).text()).toBe(fixture.engine.expected("once", 5000));
  });

  test("/sleep in mode abort ends a stream while other routes answer", async () => {
    const cut = fixture.server.fetch("/complete?stream&length=100000").then(
      (response) =>
        response.text().then(
          () => "ended",
          () => "cut",
        ),
      () => "cut",
    );
    await until(() => fixture.controller.status.requests.running === 1);
    const device = holdDevice();
    const slept = fixture.server.postJson("/sleep");
    await until(() => fixture.engine.weights.state === "moving");
    expect(await fixture.server.json("/is_sleeping")).toEqual([200, { is_sleeping: false }]);
    device.release();
    expect(await slept).toEqual([200, { status: "sleeping", level: 1 }]);
    await cut;
  });
});

test("admitRequest() refuses invalid arguments and takes no lease", async () => {
  const request = new Request("http://localhost/complete");
  const calls: [() => unknown, string][] = [
    [
      () => admitRequest(fixture.controller, request, { modle: "x" } as AdmitRequestOptions),
      'no option "modle"',
    ],
    [() => admitRequest(fixture.controller, undefined as never), "request is undefined"],
    [() => admitRequest(fixture.allocator as never, request), "engine is an object"],
  ];
  for (const [call, part] of calls) expect((await failureOf(call)).message).toContain(part);
  expect(fixture.controller.status.requests.running).toBe(0);
});
