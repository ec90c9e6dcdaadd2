/** The handler beyond single routes: access, bad options, other paths, and shutdown. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createHandler } from "camem/server";
import { holdDevice } from "../../support/device.ts";
import { until } from "../../support/fake-engine.ts";
import { errorOf, errorShape, HandlerFixture } from "./handler-fixture.ts";

let fixture: HandlerFixture;

beforeEach(() => {
  fixture = new HandlerFixture();
});

afterEach(() => fixture.close());

describe("access", () => {
  test("every route answers 401 without the token", async () => {
    await fixture.restart({}, { token: "open-sesame", loopbackOnly: undefined });
    const status = async (path: string, method: string, authorization?: string) =>
      (await fixture.server.fetch(path, { method, ...(authorization && { headers: { authorization } }) }))
        .status;
    for (const [path, method] of [
      ["/sleep", "POST"],
      ["/wake_up", "POST"],
      ["/is_sleeping", "GET"],
      ["/pause", "POST"],
      ["/release_memory_occupation", "GET"],
      ["/camem/usage", "GET"],
      ["/camem/events", "GET"],
      ["/camem/plan?op=sleep", "GET"],
      ["/camem/confirm_weights", "POST"],
      ["/sleep", "GET"],
    ] as const) {
      expect(await status(path, method)).toBe(401);
      expect(await status(path, method, "Bearer open-sesam")).toBe(401);
      expect(await status(path, method, "Basic open-sesame")).toBe(401);
    }
    expect(fixture.controller.status.state).toBe("awake");
    const refused = await fixture.server.post("/sleep");
    expect(refused.headers.get("www-authenticate")).toBe("Bearer");
    expect(await refused.json()).toMatchObject(errorShape(401));
    expect(await status("/is_sleeping", "GET", "Bearer open-sesame")).toBe(200);
    expect(await status("/sleep", "POST", "bearer open-sesame")).toBe(200);
  });

  test.each([
    ["another host", "10.0.0.7", {}, 403],
    ["a name that starts like a loopback address", "127.0.0.1.evil.example", {}, 403],
    ["this machine", "127.0.0.1", {}, 200],
    ["this machine over IPv6", "::1", { host: "[::1]:8000" }, 200],
    ["this machine by an IPv4-mapped address", "::ffff:127.0.0.1", {}, 200],
    ["a rebound DNS name", "127.0.0.1", { host: "evil.example:8000" }, 403],
    ["another site's page", "127.0.0.1", { origin: "https://evil.example" }, 403],
    ["another port's page", "127.0.0.1", { origin: "http://localhost:3000" }, 403],
    ["a page without an origin", "127.0.0.1", { origin: "null" }, 403],
    ["the own page", "127.0.0.1", { origin: "http://localhost:8000" }, 200],
    ["an element of another site's page", "127.0.0.1", { "sec-fetch-site": "cross-site" }, 403],
    ["an element of another port's page", "127.0.0.1", { "sec-fetch-site": "same-site" }, 403],
    ["a fetch of the own page", "127.0.0.1", { "sec-fetch-site": "same-origin" }, 200],
    ["the address bar of a browser", "127.0.0.1", { "sec-fetch-site": "none" }, 200],
    ["a proxy that sends X-Forwarded-For", "127.0.0.1", { "x-forwarded-for": "10.0.0.7" }, 403],
    ["a proxy that sends X-Forwarded-Host", "127.0.0.1", { "x-forwarded-host": "api.example" }, 403],
    ["a proxy that sends X-Real-IP", "127.0.0.1", { "x-real-ip": "10.0.0.7" }, 403],
    ["a proxy that sends Via", "127.0.0.1", { via: "1.1 edge" }, 403],
  ])("loopbackOnly decides on a request from %s", async (_name, address, headers, status) => {
    const handler = createHandler({ engine: fixture.controller, loopbackOnly: true });
    const request = new Request("http://localhost:8000/is_sleeping", {
      headers: { host: "localhost:8000", ...(headers as Record<string, string>) },
    });
    expect((await handler(request, { requestIP: () => ({ address }) }))?.status).toBe(status);
    const remoteAddr = { transport: "tcp", hostname: address, port: 5000 };
    expect((await handler(request, { remoteAddr }))?.status).toBe(status);
    expect((await handler(request, { requestIP: () => null }))?.status).toBe(403);
    expect((await handler(request))?.status).toBe(403);
  });

  test("handler.routes serve on a separate listener", async () => {
    const handler = createHandler({ engine: fixture.controller, token: "secret", health: true });
    await using admin = Bun.serve({ port: 0, hostname: "127.0.0.1", routes: handler.routes });
    const headers = { authorization: "Bearer secret" };
    expect(await (await fetch(new URL("/is_sleeping", admin.url), { headers })).json()).toEqual({
      is_sleeping: false,
    });
    expect((await fetch(new URL("/sleep", admin.url), { method: "POST" })).status).toBe(401);
    expect((await fetch(new URL("/health", admin.url))).status).toBe(200);
    expect((await fetch(new URL("/nothing", admin.url), { headers })).status).toBe(404);
  });

  test("handler.routes leave no path below /camem to the model", async () => {
    const { routes } = createHandler({ engine: fixture.controller, token: "secret" });
    const fetchModel = () => new Response("model");
    await using model = Bun.serve({ port: 0, hostname: "127.0.0.1", routes, fetch: fetchModel });
    const headers = { authorization: "Bearer secret" };
    const statusOf = async (path: string) => (await fetch(new URL(path, model.url), { headers })).status;
    expect(await statusOf("/camem/usge")).toBe(404);
    expect(await statusOf("/camem/usage")).toBe(200);
    expect(await statusOf("/camem")).toBe(200);
    expect(await (await fetch(new URL("/v1/models", model.url))).text()).toBe("model");
  });
});

describe("shutdown", () => {
  test("close() ends event streams and rejects held requests while asleep", async () => {
    await fixture.restart({ whenAsleep: "hold" });
    await fixture.server.post("/sleep");
    const stream = fixture.server.fetch("/camem/events").then((response) => response.text());
    const held = fixture.server.fetch("/complete");
    await until(() => fixture.controller.status.requests.waiting === 1);
    fixture.server.handler.close();
    await fixture.controller.close();
    expect(await stream).toStartWith("event: snapshot\n");
    expect((await held).status).toBe(503);
    expect((await fixture.server.fetch("/camem/events")).status).toBe(503);
    await fixture.server.stop();
  });

  test("close() answers 503 to a running sleep and restores the memory", async () => {
    const device = holdDevice();
    const slept = fixture.server.postJson("/sleep");
    await until(() => fixture.engine.weights.state === "moving");
    await fixture.controller.close();
    expect(await errorOf(slept)).toEqual([503, null]);
    device.release();
    await fixture.server.stop();
    expect(fixture.engine.weights.read()).toEqual(fixture.engine.content);
  });

  test("close() completes when the connections were cut during a sleep", async () => {
    const device = holdDevice();
    const slept = fixture.server.postJson("/sleep").catch((error) => error.code);
    await until(() => fixture.engine.weights.state === "moving");
    const stopped = fixture.server.stop();
    await slept;
    await stopped;
    const closed = fixture.controller.close();
    device.release();
    await closed;
    expect(fixture.controller.status.state).toBe("closed");
    const states = new Set(Object.values(fixture.allocator.usage()).map(({ state }) => state));
    expect(states.size).toBe(1);
    expect(states.has("partial")).toBe(false);
  });
});
