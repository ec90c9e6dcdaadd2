/** OPTIONS, and pages of other origins that may read. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { HandlerFixture } from "./handler-fixture.ts";

const dashboard = "https://dash.example";

let fixture: HandlerFixture;

beforeEach(() => {
  fixture = new HandlerFixture();
});

afterEach(() => fixture.close());

const headersOf = async (path: string, init: RequestInit) => {
  const { status, headers } = await fixture.server.fetch(path, init);
  return [status, headers.get("allow"), headers.get("access-control-allow-origin")];
};

const preflight = (origin: string) => ({
  method: "OPTIONS",
  headers: {
    origin,
    "access-control-request-method": "GET",
    "access-control-request-headers": "authorization",
    "sec-fetch-mode": "cors",
    "sec-fetch-site": "cross-site",
  },
});

test.each([
  ["/sleep", "POST, OPTIONS"],
  ["/is_sleeping", "GET, HEAD, OPTIONS"],
  ["/flush_cache", "GET, POST, OPTIONS"],
  ["/camem", "GET, HEAD, OPTIONS"],
])("%s answers OPTIONS with its methods", async (path, allow) => {
  expect(await headersOf(path, { method: "OPTIONS" })).toEqual([204, allow, null]);
  expect(fixture.controller.status.state).toBe("awake");
});

test("handler answers OPTIONS only with the token", async () => {
  await fixture.restart({}, { token: "secret", loopbackOnly: undefined });
  expect((await fixture.server.fetch("/sleep", { method: "OPTIONS" })).status).toBe(401);
  expect((await fixture.server.fetch("/sleep", preflight(dashboard))).status).toBe(401);
});

test("corsOrigins lets a page of a listed origin read, with the token, and change nothing", async () => {
  await fixture.restart({}, { token: "secret", loopbackOnly: undefined, corsOrigins: [dashboard] });
  const asked = await fixture.server.fetch("/camem/usage", preflight(dashboard));
  expect([asked.status, asked.headers.get("access-control-allow-methods")]).toEqual([204, "GET, HEAD"]);
  expect(asked.headers.get("access-control-allow-headers")).toBe("authorization");
  const headers = { origin: dashboard, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors" };
  const authorized = { ...headers, authorization: "Bearer secret" };
  expect(await headersOf("/camem/usage", { headers: authorized })).toEqual([200, null, dashboard]);
  expect(await headersOf("/camem/usage", { headers })).toEqual([401, null, dashboard]);
  for (const path of ["/sleep", "/release_memory_occupation"])
    expect(await headersOf(path, { method: "POST", headers: authorized })).toEqual([403, null, dashboard]);
  expect(fixture.controller.status.state).toBe("awake");
});

test("corsOrigins lets no other origin read", async () => {
  await fixture.restart({}, { corsOrigins: [dashboard] });
  for (const origin of ["https://dash.example:8443", "http://dash.example", "null", "https://evil.example"]) {
    const headers = { origin, "sec-fetch-site": "cross-site" };
    expect(await headersOf("/camem/usage", { headers })).toEqual([403, null, null]);
    expect(await headersOf("/camem/usage", preflight(origin))).toEqual([403, null, null]);
  }
  const headers = { origin: dashboard, "sec-fetch-site": "cross-site" };
  expect(await headersOf("/camem/usage", { headers })).toEqual([200, null, dashboard]);
  expect((await fixture.server.fetch("/is_sleeping")).headers.get("vary")).toBe("Origin");
});

test("handler sends no CORS header without corsOrigins", async () => {
  const response = await fixture.server.fetch("/is_sleeping");
  expect([response.headers.get("vary"), response.headers.get("access-control-allow-origin")]).toEqual([
    null,
    null,
  ]);
});
