import { expect, test } from "bun:test";
import { parseListenAddress } from "../../src/proxy/listen.ts";
import { codeOf } from "../support/device.ts";
import { until } from "../support/fake-engine.ts";
import { raw } from "../support/test-server.ts";
import { ProxyFixture } from "./proxy-fixture.ts";

const post = { method: "POST", body: "once" };

test("ReverseProxy wakes the engine for a request when its memory is asleep", async () => {
  await using fixture = new ProxyFixture(async (request) => {
    // The engine reads its weights, which would fail while they sleep.
    const isWhole = Bun.deepEquals(fixture.engine.weights.read(0, 4), fixture.engine.content.slice(0, 4));
    return new Response(`${request.method} ${await request.text()} ${isWhole}`);
  });
  expect(await (await fixture.fetch("/sleep", { method: "POST" })).json()).toMatchObject({
    status: "sleeping",
  });
  expect((await fixture.fetch("/health")).status).toBe(200);
  expect(await (await fixture.fetch("/v1/completions", post)).text()).toBe("POST once true");
  expect(fixture.controller.status.state).toBe("awake");
});

test("ReverseProxy holds a request when the engine sleeps and requests must not wake it", async () => {
  await using fixture = new ProxyFixture(() => new Response("done"), {
    whenAsleep: "hold",
    whenOperatorAsleep: "hold",
  });
  await fixture.controller.sleep();
  const held = fixture.fetch("/v1/completions", post);
  await until(() => fixture.controller.status.requests.waiting === 1);
  expect((await fixture.fetch("/wake_up", { method: "POST" })).status).toBe(200);
  expect(await (await held).text()).toBe("done");
});

test("ReverseProxy passes a GET on without waking the engine", async () => {
  await using fixture = new ProxyFixture((request) => new Response(new URL(request.url).pathname));
  await fixture.controller.sleep();
  expect(await (await fixture.fetch("/v1/models?x=1")).text()).toBe("/v1/models");
  expect(fixture.controller.status.state).toBe("asleep");
  expect(fixture.controller.status.requests.admittedTotal).toBe(0);
});

test("ReverseProxy answers /health from what it knows", async () => {
  await using fixture = new ProxyFixture(() => new Response("the engine's own"));
  const healthy = await fixture.fetch("/health");
  expect([healthy.status, await healthy.text()]).toEqual([200, ""]);
  fixture.isHealthy = false;
  expect((await fixture.fetch("/health", { method: "HEAD" })).status).toBe(503);
});

test.each(["/sleep", "/metrics", "/camem/usage", "/release_memory_occupation"])(
  "ReverseProxy refuses %s when a proxy forwarded it",
  async (path) => {
    await using fixture = new ProxyFixture(() => new Response("the engine's own"));
    const method = path === "/sleep" ? "POST" : "GET";
    const response = await fixture.fetch(path, { method, headers: { "x-forwarded-for": "192.0.2.1" } });
    expect(response.status).toBe(403);
    expect(fixture.controller.status.state).toBe("awake");
  },
);

test.each([
  ...["/%73leep", "//sleep", "/%2573leep", "/Sleep", "/wake_up;x=1", "/%6detrics"],
  ...["/x%2f..%2fsleep", "/.%2fsleep", "/x/%2e%2e%2fsleep", "/x;y/..%2fsleep"],
])("ReverseProxy does not pass on %s, which an engine may read as an administrative route", async (path) => {
  let reached = 0;
  await using fixture = new ProxyFixture(() => new Response(String(++reached)));
  const answer = await raw(
    fixture.port,
    `POST ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`,
  );
  expect(answer).toStartWith("HTTP/1.1 404 ");
  expect(reached).toBe(0);
});

test.each(["/health", "/metrics"])("ReverseProxy passes no POST to %s on", async (path) => {
  let reached = 0;
  await using fixture = new ProxyFixture(() => new Response(String(++reached)));
  const answer = await fixture.fetch(path, post);
  expect([answer.status, answer.headers.get("allow")]).toEqual([405, "GET, HEAD, OPTIONS"]);
  const headers = { "x-forwarded-for": "192.0.2.1" };
  expect((await fixture.fetch("/metrics", { ...post, headers })).status).toBe(403);
  expect(reached).toBe(0);
});

test("ReverseProxy reaches the engine itself whatever proxy the environment names", async () => {
  const seen: string[] = [];
  using other = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: ({ url }) => {
      seen.push(url);
      return new Response("", { status: 403 });
    },
  });
  await using fixture = new ProxyFixture(() => new Response("the engine's own"));
  const answers: string[] = [];
  process.env["http_proxy"] = String(other.url);
  try {
    const request =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    answers.push(await raw(fixture.port, request));
  } finally {
    delete process.env["http_proxy"];
  }
  expect(answers[0]).toContain("the engine's own");
  expect(seen).toEqual([]);
});

test("ReverseProxy leaves the routes that are named to the engine", async () => {
  await using fixture = new ProxyFixture(() => new Response("the engine's own"));
  expect(await (await fixture.fetch("/version")).text()).toBe("the engine's own");
  expect(await (await fixture.fetch("/load")).text()).not.toBe("the engine's own");
});

test("ReverseProxy refuses an upgrade with 501", async () => {
  await using fixture = new ProxyFixture(() => new Response("reached"));
  const response = await fixture.fetch("/v1/realtime", {
    headers: { upgrade: "websocket", connection: "upgrade" },
  });
  expect(response.status).toBe(501);
  expect(await response.json()).toMatchObject({ error: { reason: "UPGRADE_REFUSED" } });
});

test("ReverseProxy answers 502 and holds no lease when nothing listens upstream", async () => {
  await using fixture = new ProxyFixture(new URL("http://127.0.0.1:1"));
  const response = await fixture.fetch("/v1/completions", post);
  expect(response.status).toBe(502);
  expect(await response.json()).toMatchObject({ error: { reason: "UPSTREAM_FAILED", code: 502 } });
  expect(fixture.controller.status.requests.running).toBe(0);
});

test.each([
  ["8000", { hostname: "0.0.0.0", port: 8000 }],
  [":8000", { hostname: "0.0.0.0", port: 8000 }],
  ["127.0.0.1:0", { hostname: "127.0.0.1", port: 0 }],
  ["[::1]:80", { hostname: "::1", port: 80 }],
])("parseListenAddress accepts %s", (text, address) => {
  expect(parseListenAddress(text, "--listen")).toEqual(address);
});

test.each(["", "localhost", "127.0.0.1:70000", "a:b:1", "http://x:1"])(
  "parseListenAddress refuses %p",
  async (text) => {
    expect(await codeOf(() => parseListenAddress(text, "--listen"))).toBe("INVALID_CONFIG");
  },
);
