/** Requests to the administrative routes that are malformed, over real HTTP. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { createHandler, type HandlerOptions } from "camem/server";
import { codeOf } from "../../support/device.ts";
import { raw } from "../../support/test-server.ts";
import { errorOf, errorShape, HandlerFixture } from "./handler-fixture.ts";

let fixture: HandlerFixture;

beforeEach(() => {
  fixture = new HandlerFixture();
});

afterEach(() => fixture.close());

describe("invalid requests", () => {
  test("handler names the reason of every refusal", async () => {
    await fixture.restart({}, { token: "secret", loopbackOnly: true, bodyLimitBytes: 32 });
    const authorized = { authorization: "Bearer secret" };
    const post = (path: string, body?: unknown, headers: Record<string, string> = authorized) =>
      fixture.server.post(path, body, headers);
    const cases: [Promise<Response>, number, string, string | null][] = [
      [post("/sleep?level=3"), 400, "UNKNOWN_LEVEL", "query.level"],
      [post("/sleep?level=1&level=2"), 400, "INVALID_ARGUMENT", "query.level"],
      [post("/wake_up?level=1"), 400, "INVALID_ARGUMENT", "query.level"],
      [post("/sleep?tags="), 400, "INVALID_TAG", "query.tags"],
      [post("/sleep?tags=weigths"), 400, "UNKNOWN_TAG", "query.tags"],
      [post("/sleep?mode=wat"), 400, "INVALID_ARGUMENT", "query.mode"],
      [post("/sleep?deadline_ms=5s"), 400, "INVALID_ARGUMENT", "query.deadline_ms"],
      [post("/sleep?levl=1"), 400, "INVALID_ARGUMENT", "query.levl"],
      [post("/sleep", "{"), 400, "INVALID_ARGUMENT", null],
      [post("/sleep?model=qwen"), 404, "UNKNOWN_MODEL", "query.model"],
      [post("/sleep", { mode: "x".repeat(32) }), 413, "BODY_TOO_LARGE", null],
      [post("/sleep", undefined, {}), 401, "UNAUTHORIZED", null],
      [post("/sleep", undefined, { ...authorized, via: "proxy" }), 403, "FORBIDDEN", null],
      [post("/is_sleeping"), 405, "METHOD_NOT_ALLOWED", null],
      [post("/camem/plans"), 404, "UNKNOWN_ROUTE", null],
      [fixture.server.fetch("/camem/plan", { headers: authorized }), 400, "INVALID_ARGUMENT", "query.op"],
      [
        fixture.server.fetch("/camem/plan?op=slep", { headers: authorized }),
        400,
        "INVALID_ARGUMENT",
        "query.op",
      ],
    ];
    for (const [response, status, reason, param] of cases)
      expect(await (await response).json()).toMatchObject({ error: { code: status, reason, param } });
  });

  const cases: [string, () => Promise<[number, unknown]>, [number, string | null]][] = [
    ["an unknown level", () => fixture.server.postJson("/sleep?level=3"), [400, "query.level"]],
    [
      "a level that is not a number",
      () => fixture.server.postJson("/sleep?level=deep"),
      [400, "query.level"],
    ],
    ["an empty level", () => fixture.server.postJson("/sleep?level="), [400, "query.level"]],
    ["a negative level", () => fixture.server.postJson("/sleep?level=-1"), [400, "query.level"]],
    ["two levels", () => fixture.server.postJson("/sleep?level=1&level=2"), [400, "query.level"]],
    [
      "a level as text in JSON",
      () => fixture.server.postJson("/sleep", { level: "one" }),
      [400, "body.level"],
    ],
    ["an unknown mode", () => fixture.server.postJson("/sleep?mode=kill"), [400, "query.mode"]],
    ["an unknown tag", () => fixture.server.postJson("/wake_up?tags=kv_cash"), [400, "query.tags"]],
    ["an empty tag", () => fixture.server.postJson("/sleep?tags="), [400, "query.tags"]],
    [
      "tags that are not an array",
      () => fixture.server.postJson("/wake_up", { tags: "weights" }),
      [400, "body.tags"],
    ],
    ["an unknown mode of pause", () => fixture.server.postJson("/pause?mode=later"), [400, "query.mode"]],
    [
      "an invalid flag",
      () => fixture.server.postJson("/pause?clear_cache=perhaps"),
      [400, "query.clear_cache"],
    ],
    [
      "a fractional deadline",
      () => fixture.server.postJson("/sleep?deadline_ms=1.5"),
      [400, "query.deadline_ms"],
    ],
    ["a body that is not JSON", () => fixture.server.postJson("/sleep", "level=1"), [400, null]],
    ["a body that is not an object", () => fixture.server.postJson("/sleep", "[1]"), [400, null]],
    ["another model", () => fixture.server.postJson("/sleep?model=qwen"), [404, "query.model"]],
  ];
  test.each(cases)("handler refuses %s and changes nothing", async (_name, call, expected) => {
    expect(await errorOf(call())).toEqual(expected);
    expect(fixture.controller.status.state).toBe("awake");
  });

  test.each(["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])(
    "/sleep ignores a body of type %s, as vLLM does, and reads the query",
    async (type) => {
      const headers = { "content-type": type };
      const form = type.startsWith("multipart") ? "--x\r\n\r\n2\r\n--x--" : "level=2&levl=1";
      const response = await fixture.server.post("/sleep?mode=wait", form, headers);
      expect(await response.json()).toEqual({ status: "sleeping", level: 1 });
    },
  );

  test("/sleep reads JSON under the type that curl sends", async () => {
    const headers = { "content-type": "application/x-www-form-urlencoded" };
    const response = await fixture.server.post("/sleep", '{"level": 2}', headers);
    expect(await response.json()).toEqual({ status: "sleeping", level: 2 });
    expect((await fixture.server.post("/wake_up", '{"tag": "weights"}', headers)).status).toBe(400);
  });

  test("handler names the place of a tag that the engine does not have", async () => {
    for (const [path, body, param] of [
      ["/sleep?offload_tags=weigths", undefined, "query.offload_tags"],
      ["/sleep", { offload_tags: ["weigths"] }, "body.offload_tags"],
      ["/wake_up", { tags: ["weigths"] }, "body.tags"],
      ["/sleep?level=0&offload_tags=weights", undefined, "query.level"],
    ] as const)
      expect(await errorOf(fixture.server.postJson(path, body))).toEqual([400, param]);
    expect(fixture.controller.status.state).toBe("awake");
  });

  test("handler lists the engine's tags when it does not know one", async () => {
    const messageOf = async () => await (await fixture.server.post("/wake_up?tags=weigths")).text();
    expect(await messageOf()).toContain('no tag \\"weigths\\"; its tags are weights, kv_cache');
    await fixture.restart({ tags: { weights: "weights" } });
    expect(await messageOf()).toContain('no tag \\"weigths\\"; its tags are weights"');
    expect((await fixture.server.post("/wake_up?tags=weights")).status).toBe(200);
  });

  test("createHandler() says that an empty token is empty", () => {
    const create = () => createHandler({ engine: fixture.controller, token: "" });
    expect(create).toThrow("token is empty; it must be a secret");
  });

  test("every route refuses unknown parameters and names them", async () => {
    for (const [method, path] of [
      ["POST", "/sleep"],
      ["POST", "/wake_up"],
      ["POST", "/pause"],
      ["POST", "/resume"],
      ["GET", "/is_sleeping"],
      ["GET", "/is_paused"],
      ["GET", "/release_memory_occupation"],
      ["POST", "/resume_memory_occupation"],
      ["GET", "/camem/plan"],
      ["GET", "/camem/usage"],
      ["GET", "/camem/transitions"],
      ["GET", "/camem/events"],
      ["POST", "/camem/confirm_weights"],
      ["POST", "/collective_rpc"],
      ["POST", "/reset_prefix_cache"],
      ["POST", "/release_kv_cache_memory"],
      ["GET", "/flush_cache"],
      ["POST", "/pause_generation"],
      ["POST", "/continue_generation"],
      ["POST", "/update_weights_from_disk"],
      ["POST", "/abort_request"],
      ["GET", "/health_generate"],
      ["GET", "/load"],
      ["GET", "/version"],
      ["GET", "/server_info"],
      ["GET", "/get_world_size"],
    ] as const) {
      for (const name of ["levl", "tag", "__proto__", "constructor"]) {
        const call = () => fixture.server.json(`${path}?${name}=2`, { method });
        expect([path, await errorOf(call())]).toEqual([path, [400, `query.${name}`]]);
        if (method === "POST")
          expect(await errorOf(fixture.server.postJson(path, `{"${name}":2}`))).toEqual([
            400,
            `body.${name}`,
          ]);
      }
    }
    expect(fixture.controller.status).toMatchObject({ state: "awake", paused: false });
    const response = await fixture.server.post("/wake_up?tag=weights");
    expect(await response.text()).toContain('there is no parameter \\"tag\\"; this route has model, tags');
  });

  test("handler answers HEAD wherever it answers GET without a change", async () => {
    await fixture.restart({}, { health: true });
    for (const path of [
      "/health",
      "/is_sleeping",
      "/camem",
      "/camem/page.js",
      "/camem/usage",
      "/camem/events",
    ]) {
      const head = await fixture.server.fetch(path, { method: "HEAD" });
      const get = await fixture.server.fetch(path);
      expect([path, head.status, await head.text()]).toEqual([path, 200, ""]);
      expect([path, head.headers.get("content-type")]).toEqual([path, get.headers.get("content-type")]);
      await get.body?.cancel();
    }
    expect((await fixture.server.fetch("/is_sleeping?model=qwen", { method: "HEAD" })).status).toBe(404);
    expect((await fixture.server.fetch("/camem/usge", { method: "HEAD" })).status).toBe(404);
    expect((await fixture.server.fetch("/release_memory_occupation", { method: "HEAD" })).status).toBe(405);
    expect(fixture.controller.status.state).toBe("awake");
  });

  const detours = [
    "/v1/..\\..\\sleep",
    "/v1\\..\\sleep",
    "/v1/%2e%2e/sleep",
    "/v1/.%2e\\sleep",
    "/camem/../sleep",
    "/sleep#x",
  ];

  test.each(detours)("handler.routes leave %s to the model", async (path) => {
    const handler = createHandler({ engine: fixture.controller, loopbackOnly: true });
    const fetchModel = () => new Response(null, { status: 404 });
    await using served = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      routes: handler.routes,
      fetch: fetchModel,
    });
    const post = `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`;
    expect(await raw(Number(served.port), post)).toStartWith("HTTP/1.1 404");
    expect(fixture.controller.status.state).toBe("awake");
  });

  test("handler.routes refuse a target with a fragment after the query", async () => {
    const { routes } = createHandler({ engine: fixture.controller, loopbackOnly: true });
    await using served = Bun.serve({ port: 0, hostname: "127.0.0.1", routes });
    const post = "POST /sleep?level=1#&level=2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    expect(await raw(Number(served.port), post)).toStartWith("HTTP/1.1 400");
    expect(fixture.controller.status.state).toBe("awake");
  });

  test.each(detours)("handler refuses %s where the request shows how it was sent", async (path) => {
    const post = `POST ${path} HTTP/1.1\r\nHost: [\r\nAuthorization: Bearer secret\r\nConnection: close\r\n\r\n`;
    await fixture.restart({}, { token: "secret", loopbackOnly: undefined });
    expect(await raw(fixture.server.port, post)).toStartWith("HTTP/1.1 400");
    expect(fixture.controller.status.state).toBe("awake");
  });

  test.each([
    ["/sleep", "GET", "POST"],
    ["/is_sleeping", "POST", "GET, HEAD"],
    ["/release_memory_occupation", "DELETE", "GET, POST"],
    ["/camem/events", "PUT", "GET, HEAD"],
  ])("%s answers 405 with Allow to %s", async (path, method, allow) => {
    const response = await fixture.server.fetch(path, { method });
    expect([response.status, response.headers.get("allow")]).toEqual([405, allow]);
    expect(await response.json()).toMatchObject(errorShape(405));
  });

  test("/sleep answers 413 to a body that is too large, declared or chunked", async () => {
    await fixture.restart({}, { bodyLimitBytes: 64 });
    expect(await errorOf(fixture.server.postJson("/sleep", " ".repeat(65)))).toEqual([413, null]);
    const chunk = `20\r\n${" ".repeat(32)}\r\n`;
    const answer = await raw(
      fixture.server.port,
      `POST /sleep HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n${chunk.repeat(3)}`,
    );
    expect(answer).toStartWith("HTTP/1.1 413");
    expect((await fixture.server.post("/sleep", `{"level":1}${" ".repeat(53)}`)).status).toBe(200);
  });

  test("bodyTimeoutMs may exceed the longest timer", async () => {
    await fixture.restart({}, { bodyTimeoutMs: Number.MAX_SAFE_INTEGER });
    const body = new ReadableStream({
      async start(output) {
        output.enqueue(new TextEncoder().encode('{"level"'));
        await sleep(50);
        output.enqueue(new TextEncoder().encode(":2}"));
        output.close();
      },
    });
    const response = await fixture.server.fetch("/sleep", { method: "POST", body });
    expect(await response.json()).toEqual({ status: "sleeping", level: 2 });
  });

  test("/sleep answers 408 when the body does not arrive", async () => {
    await fixture.restart({}, { bodyTimeoutMs: 20 });
    const answer = await raw(
      fixture.server.port,
      'POST /sleep HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n{"leve',
    );
    expect(answer).toStartWith("HTTP/1.1 408");
    expect(fixture.controller.status.state).toBe("awake");
  });

  test("handler warns of nothing when a client leaves before its body has arrived", async () => {
    const warnings: Error[] = [];
    const note = (warning: Error) => void warnings.push(warning);
    process.on("warning", note);
    for (const path of ["/sleep", "/update_weights_from_disk"]) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const socket = connect(fixture.server.port, "127.0.0.1", () => {
        socket.write(`POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n{"leve`);
        setTimeout(() => socket.destroy(), 10);
      });
      socket.on("close", () => resolve());
      await promise;
    }
    await sleep(30);
    process.off("warning", note);
    expect(warnings).toEqual([]);
    expect(fixture.controller.status.state).toBe("awake");
  });

  test.each(["a b", "%zz", "[", "x:99999"])("handler accepts a malformed Host header: %s", async (host) => {
    const handler = createHandler({ engine: fixture.controller, token: "secret" });
    await using admin = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: (request, server) => handler(request, server) ?? new Response(null, { status: 404 }),
    });
    const answerTo = async (path: string, header = "") =>
      (
        await raw(
          Number(admin.port),
          `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n${header}\r\n`,
        )
      ).slice(0, 12);
    expect(await answerTo("/is_sleeping")).toBe("HTTP/1.1 401");
    expect(await answerTo("/is_sleeping?model=x", "Authorization: Bearer secret\r\n")).toBe("HTTP/1.1 404");
    expect(await answerTo("/is_sleeping?model=default", "Authorization: Bearer secret\r\n")).toBe(
      "HTTP/1.1 200",
    );
    expect(await answerTo("/nothing")).toBe("HTTP/1.1 404");
  });

  test("handler returns undefined for other paths", () => {
    const handler = createHandler({ engine: fixture.controller, loopbackOnly: true });
    expect(handler(new Request("http://localhost/v1/models"))).toBeUndefined();
    expect(handler(new Request("http://localhost/health"))).toBeUndefined();
    expect(handler(new Request("http://localhost/camembert"))).toBeUndefined();
  });

  test("handler answers 404 to a misspelt path below /camem", async () => {
    const response = await fixture.server.fetch("/camem/usge");
    expect(response.status).toBe(404);
    expect(await response.text()).toContain("/camem/usge");
  });

  test("createHandler() refuses invalid options", async () => {
    const bad: unknown[] = [
      { engine: fixture.controller },
      { engine: fixture.controller, loopbackOnly: false },
      { engine: fixture.controller, loopbackOnly: "yes" },
      { engine: fixture.controller, token: "" },
      { engine: fixture.controller, token: "a b" },
      { engine: fixture.controller, token: 7 },
      { engine: {}, loopbackOnly: true },
      { engine: fixture.controller, loopbackOnly: true, bodyLimitBytes: 0 },
      { engine: fixture.controller, loopbackOnly: true, open: true },
      { engine: fixture.controller, loopbackOnly: true, unixSocketOnly: true },
      { engine: fixture.controller, loopbackOnly: true, corsOrigins: ["*"] },
      { engine: fixture.controller, loopbackOnly: true, corsOrigins: ["https://dash.example/"] },
      { engine: fixture.controller, loopbackOnly: true, resetPrefixCache: "yes" },
    ];
    for (const options of bad)
      expect(await codeOf(() => createHandler(options as HandlerOptions))).toBe("INVALID_CONFIG");
  });
});
