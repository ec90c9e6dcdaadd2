/** How a request names its target: trailing slashes, no Host header, Unix sockets. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createHandler } from "camem/server";
import { raw } from "../../support/test-server.ts";
import { HandlerFixture } from "./handler-fixture.ts";

let fixture: HandlerFixture;

beforeEach(() => {
  fixture = new HandlerFixture();
});

afterEach(() => fixture.close());

describe("trailing slash", () => {
  test("handler redirects to the path without it, and clients follow with their body", async () => {
    const response = await fixture.server.fetch("/sleep/?mode=wait", { method: "POST", redirect: "manual" });
    expect([response.status, response.headers.get("location")]).toEqual([307, "/sleep?mode=wait"]);
    expect(fixture.controller.status.state).toBe("awake");
    expect(await fixture.server.postJson("/sleep/", { level: 2 })).toEqual([
      200,
      { status: "sleeping", level: 2 },
    ]);
    expect(await fixture.server.json("/is_sleeping/")).toEqual([200, { is_sleeping: true }]);
  });

  test("handler.routes redirect too, and nobody without access", async () => {
    const { routes } = createHandler({ engine: fixture.controller, token: "secret", health: true });
    await using server = Bun.serve({ port: 0, hostname: "127.0.0.1", routes });
    const redirect = "manual";
    const statusOf = async (path: string, headers: Record<string, string> = {}) =>
      (await fetch(new URL(path, server.url), { redirect, headers })).status;
    expect(await statusOf("/is_sleeping/")).toBe(401);
    expect(await statusOf("/is_sleeping/", { authorization: "Bearer secret" })).toBe(307);
    expect(await statusOf("/health/")).toBe(307);
    expect(await statusOf("/is_sleeping//", { authorization: "Bearer secret" })).toBe(404);
  });
});

test.each(["/is_sleeping", "/camem/", "/sleep/"])(
  "handler answers HTTP/1.0 without a Host header: %s",
  async (path) => {
    await fixture.restart({}, { token: "secret", loopbackOnly: undefined });
    const answer = await raw(
      fixture.server.port,
      `GET ${path} HTTP/1.0\r\nAuthorization: Bearer secret\r\n\r\n`,
    );
    expect(answer).toMatch(/^HTTP\/1\.[01] (200|307)/);
    expect(answer).not.toContain(".ts");
  },
);

describe("unixSocketOnly", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "camem-socket-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const options = () => ({ engine: fixture.controller, unixSocketOnly: true });

  test("createHandler() serves everybody who may open the socket", async () => {
    const unix = join(folder, "engine.sock");
    await using _server = Bun.serve({ unix, routes: createHandler(options()).routes });
    const headers = { "x-forwarded-for": "10.0.0.7" };
    const slept = await fetch("http://any.host/sleep", { unix, method: "POST", headers });
    expect(await slept.json()).toEqual({ status: "sleeping", level: 1 });
    expect((await fetch("http://any.host/camem", { unix })).status).toBe(200);
    const page = { method: "POST", unix, headers: { "sec-fetch-site": "cross-site" } };
    expect((await fetch("http://any.host/wake_up", page)).status).toBe(403);
  });

  test("createHandler() knows a Unix socket by what Deno.serve passes", async () => {
    const handler = createHandler(options());
    const request = () => new Request("http+unix://localhost/is_sleeping");
    const unix = { remoteAddr: { transport: "unix", path: "engine.sock" } };
    expect((await handler(request(), unix))?.status).toBe(200);
    const tcp = { remoteAddr: { transport: "tcp", hostname: "127.0.0.1", port: 5000 } };
    expect((await handler(request(), tcp))?.status).toBe(403);
    expect((await handler(request()))?.status).toBe(403);
  });

  test("createHandler() refuses connections over TCP", async () => {
    await using server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      routes: createHandler(options()).routes,
    });
    for (const path of ["/sleep", "/camem/confirm_weights"])
      expect((await fetch(new URL(path, server.url), { method: "POST" })).status).toBe(403);
    expect((await fetch(new URL("/camem", server.url))).status).toBe(403);
    expect(fixture.controller.status.state).toBe("awake");
  });

  test("createHandler() checks the token too", async () => {
    const unix = join(folder, "engine.sock");
    const { routes } = createHandler({ ...options(), token: "secret" });
    await using _server = Bun.serve({ unix, routes });
    expect((await fetch("http://any.host/is_sleeping", { unix })).status).toBe(401);
    const headers = { authorization: "Bearer secret" };
    expect((await fetch("http://any.host/is_sleeping", { unix, headers })).status).toBe(200);
  });
});
