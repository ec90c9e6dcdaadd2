/** The administrative routes over real HTTP. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { CaMemAllocator } from "camem";
import {
  type AdmitRequestOptions,
  admitRequest,
  type ControllerOptions,
  createHandler,
  type HandlerOptions,
  leasedStream,
  SleepController,
} from "camem/server";
import { codeOf, failureOf, holdDevice, MiB, onEmulator, setFaults } from "../../support/device.ts";
import { eventsOf, raw, Serving } from "../../support/serving.ts";
import { ToyEngine, until } from "../../support/toy-engine.ts";

let allocator: CaMemAllocator;
let engine: ToyEngine;
let controller: SleepController;
let server: Serving;

async function serve(options: ControllerOptions = {}, handlerOptions: Partial<HandlerOptions> = {}) {
  await server?.stop();
  await controller?.close();
  controller = new SleepController(allocator, options);
  server = new Serving(controller, { default: engine }, handlerOptions);
}

beforeEach(async () => {
  allocator = CaMemAllocator.getInstance();
  engine = new ToyEngine(allocator);
  await serve();
});

afterEach(async () => {
  await server.stop();
  await controller.close();
  await allocator.close();
});

const errorShape = (status: number, param: string | null = null) => ({
  error: { message: expect.any(String), type: expect.any(String), param, code: status },
});

async function errorOf(answer: Promise<[number, unknown]>): Promise<[number, string | null]> {
  const [status, body] = await answer;
  const { error } = body as { error: { param: string | null } };
  expect(body).toMatchObject(errorShape(status, error.param));
  return [status, error.param];
}

describe("vLLM's contract", () => {
  test("sleep, is_sleeping, wake_up", async () => {
    expect(await server.postJson("/sleep")).toEqual([200, { status: "sleeping", level: 1 }]);
    expect(await server.json("/is_sleeping")).toEqual([200, { is_sleeping: true }]);
    expect(engine.weights.state).toBe("offloaded");
    expect(await server.postJson("/wake_up")).toEqual([200, { status: "awake", tags: null }]);
    expect(await server.json("/is_sleeping")).toEqual([200, { is_sleeping: false }]);
    expect(await (await server.fetch("/complete")).text()).toBe(engine.expected("once", 8));
  });

  test("the level comes from the query, as vLLM's callers send it, or from JSON, as kvcached and llama-swap do", async () => {
    for (const call of [
      () => server.postJson("/sleep?level=2&mode=wait"),
      () => server.postJson("/sleep", { level: 2 }),
      () => server.postJson("/sleep?level=2", { level: 1 }),
    ]) {
      expect(await call()).toEqual([200, { status: "sleeping", level: 2 }]);
      expect(engine.weights.state).toBe("discarded");
      await controller.wakeUp();
    }
    expect(await server.postJson("/sleep?level=0")).toEqual([200, { status: "sleeping", level: 0 }]);
    expect(await server.json("/is_paused")).toEqual([200, { is_paused: true }]);
    expect(await server.postJson("/wake_up?tags=scheduling")).toEqual([
      200,
      { status: "awake", tags: ["scheduling"], awaiting_weights: ["weights"] },
    ]);
  });

  test("a staged wake-up: sleeping until the last tag is awake", async () => {
    await server.post("/sleep?level=2");
    expect(await server.postJson("/wake_up?tags=weights")).toEqual([
      200,
      { status: "sleeping", tags: ["weights"], awaiting_weights: ["weights"] },
    ]);
    expect(await server.json("/is_sleeping")).toEqual([200, { is_sleeping: true }]);
    expect((await server.fetch("/complete")).status).toBe(503);
    engine.load();
    expect(await server.postJson("/camem/confirm_weights")).toEqual([200, { status: "sleeping" }]);
    expect(await server.postJson("/wake_up", { tags: ["kv_cache"] })).toEqual([
      200,
      { status: "awake", tags: ["kv_cache"] },
    ]);
    expect(await (await server.fetch("/complete")).text()).toBe(engine.expected("once", 8));
    await server.post("/sleep?tags=weights&tags=kv_cache");
    expect(await server.postJson("/wake_up?tags=weights&tags=kv_cache")).toEqual([
      200,
      { status: "awake", tags: ["weights", "kv_cache"] },
    ]);
  });

  test("a no-op says so", async () => {
    expect(await server.postJson("/wake_up")).toEqual([
      200,
      { status: "awake", tags: null, already_awake: true },
    ]);
    await server.post("/sleep");
    expect(await server.postJson("/sleep")).toEqual([
      200,
      { status: "sleeping", level: 1, already_sleeping: true },
    ]);
  });

  test("pause, resume, is_paused", async () => {
    expect(await server.postJson("/pause?mode=keep&clear_cache=false")).toEqual([200, { status: "paused" }]);
    expect(await server.json("/is_paused")).toEqual([200, { is_paused: true }]);
    expect(await server.json("/is_sleeping")).toEqual([200, { is_sleeping: false }]);
    expect((await server.fetch("/complete")).status).toBe(503);
    expect(await server.postJson("/resume")).toEqual([200, { status: "resumed" }]);
    expect(await server.json("/is_paused")).toEqual([200, { is_paused: false }]);
    for (const yes of ["true", "True", "1"]) {
      const lease = await controller.admit();
      const paused = server.postJson(`/pause?wait_for_inflight_requests=${yes}&clear_cache=False`);
      await until(() => controller.isPaused);
      expect(lease.signal.aborted).toBe(false);
      lease.release();
      expect(await paused).toEqual([200, { status: "paused" }]);
      await server.post("/resume");
    }
  });

  test("level 1 while asleep at 2 is a conflict that explains", async () => {
    await server.post("/sleep?level=2");
    const [status, body] = await server.postJson("/sleep?level=1");
    expect([status, body]).toMatchObject([
      409,
      { error: { type: "ConflictError", reason: "STATE_CONFLICT" } },
    ]);
    expect(JSON.stringify(body)).toContain("asleep at level 2");
  });

  test.if(onEmulator)("a failed wake-up is a 500 in vLLM's shape, never a success while asleep", async () => {
    await server.post("/sleep");
    setFaults("aclrtMallocPhysical:1=207001");
    const [status, body] = await server.postJson("/wake_up");
    setFaults("");
    expect([status, body]).toMatchObject([500, errorShape(500)]);
    expect(body).toMatchObject({ error: { type: "InternalServerError", reason: "OUT_OF_DEVICE_MEMORY" } });
    expect(await server.json("/is_sleeping")).toEqual([200, { is_sleeping: true }]);
    expect(await server.postJson("/wake_up")).toEqual([200, { status: "awake", tags: null }]);
  });

  test("a sleep that requests in flight outlast is a 504, and nothing has changed", async () => {
    const lease = await controller.admit();
    expect(await errorOf(server.postJson("/sleep?mode=wait&deadline_ms=5"))).toEqual([504, null]);
    expect(controller.status.state).toBe("awake");
    lease.release();
  });

  test("health stays 200 while asleep, to everybody, where it is asked for", async () => {
    await serve({}, { health: true, token: "secret" });
    await controller.sleep();
    const response = await server.fetch("/health");
    expect([response.status, await response.text()]).toEqual([200, ""]);
  });
});

describe("SGLang's contract", () => {
  test.each(["GET", "POST"])("release and resume by %s", async (method) => {
    expect(await server.json("/release_memory_occupation", { method })).toEqual([200, null]);
    expect(engine.weights.state).toBe("offloaded");
    expect(await server.json("/resume_memory_occupation", { method })).toEqual([200, null]);
    expect(controller.status.state).toBe("awake");
  });

  test("tags in the body", async () => {
    await server.post("/release_memory_occupation", { tags: ["kv_cache"] });
    expect([engine.weights.state, engine.cache.state]).toEqual(["mapped", "discarded"]);
    await server.post("/release_memory_occupation", { tags: ["weights"] });
    await server.post("/resume_memory_occupation", { tags: ["weights"] });
    expect([engine.weights.state, engine.cache.state]).toEqual(["mapped", "discarded"]);
    await server.post("/resume_memory_occupation", { tags: null });
    expect(controller.status.state).toBe("awake");
  });

  test("an empty array of tags stands for all", async () => {
    for (const [sleep, wake] of [
      ["/release_memory_occupation", "/resume_memory_occupation"],
      ["/sleep", "/wake_up"],
    ] as const) {
      expect((await server.post(sleep, { tags: [] })).status).toBe(200);
      expect(controller.status.sleepingTags).toEqual(["weights", "kv_cache"]);
      expect((await server.post(wake, { tags: [] })).status).toBe(200);
      expect(controller.status.state).toBe("awake");
    }
  });

  test("a body that GET cannot bring is refused, not taken for everything", async () => {
    const body = '{"tags":["weights"]}';
    for (const framed of [
      `Content-Length: 20\r\n\r\n${body}`,
      `Transfer-Encoding: chunked\r\n\r\n14\r\n${body}\r\n0\r\n\r\n`,
    ]) {
      const head = "GET /release_memory_occupation HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
      expect(await raw(server.port, head + framed)).toStartWith("HTTP/1.1 400");
      expect(controller.status.state).toBe("awake");
    }
  });
});

describe("camem's own routes", () => {
  test("usage by engine and tag, and by device", async () => {
    const { freeBytes, totalBytes } = allocator.memGetInfo();
    const [status, body] = await server.json("/camem/usage");
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
      },
    ]);
  });

  test.if(onEmulator)("usage tells of an engine whose device is lost", async () => {
    await controller.sleep();
    setFaults("*:1+=507010");
    expect(await errorOf(server.postJson("/wake_up"))).toEqual([500, null]);
    const usage = await server.json("/camem/usage");
    setFaults("");
    expect(usage).toMatchObject([
      200,
      {
        engines: { default: { status: { state: "failed", failure: { code: "DEVICE_LOST" } } } },
        devices: [],
      },
    ]);
  });

  test("usage and events tell of an engine whose allocator is closed", async () => {
    await allocator.close();
    expect((await server.post("/sleep")).status).toBe(503);
    const engines = { default: { status: { state: "failed", failure: { code: "CLOSED" } }, tags: {} } };
    expect(await server.json("/camem/usage")).toMatchObject([200, { engines, devices: [] }]);
    expect((await server.fetch("/camem/events")).status).toBe(200);
  });

  test("a plan, without touching anything", async () => {
    expect(await server.json("/camem/plan?op=sleep&level=2")).toMatchObject([
      200,
      { fits: true, tags: { weights: { discardBytes: 4 * MiB } } },
    ]);
    await controller.sleep();
    expect(await server.json("/camem/plan?op=wake&tags=kv_cache")).toMatchObject([
      200,
      { fits: true, devices: [{ device: 0, neededBytes: 6 * MiB }] },
    ]);
    expect(await errorOf(server.json("/camem/plan"))).toEqual([400, "op"]);
    expect(await errorOf(server.json("/camem/plan?op=nap"))).toEqual([400, "op"]);
  });

  test("events: a snapshot, then transitions with their progress", async () => {
    const response = await server.fetch("/camem/events");
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    const seen: string[] = [];
    for await (const { event, data } of eventsOf(response)) {
      if (event === "snapshot") {
        expect(data.engines.default.status.state).toBe("awake");
        void server.post("/sleep");
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

  test("events of requests are thinned out to the latest", async () => {
    const response = await server.fetch("/camem/events");
    const counts: number[] = [];
    for await (const { event, data } of eventsOf(response)) {
      if (event === "snapshot") for (let index = 0; index < 50; index++) (await controller.admit()).release();
      if (event !== "requests") continue;
      counts.push(data.requests.admittedTotal);
      if (data.requests.admittedTotal === 50) break;
    }
    expect(counts.length).toBeLessThan(10);
  });

  test("there is a limit to event streams, and one that ends makes room", async () => {
    const clients = Array.from({ length: 64 }, () => new AbortController());
    for (const { signal } of clients)
      expect((await server.fetch("/camem/events", { signal })).status).toBe(200);
    const refused = await server.fetch("/camem/events");
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "5"]);
    expect(await refused.json()).toMatchObject(errorShape(503));
    clients[0]?.abort();
    while ((await server.fetch("/camem/events")).status !== 200) await Bun.sleep(1);
    for (const client of clients) client.abort();
  });

  test("an event stream shows that it lives, and leaves nothing when its client goes", async () => {
    await serve({}, { heartbeatMs: 5 });
    let listeners = 0;
    const { subscribe } = controller;
    controller.subscribe = (listener) => {
      const unsubscribe = subscribe.call(controller, listener);
      listeners++;
      return () => {
        listeners--;
        unsubscribe();
      };
    };
    const client = new AbortController();
    const response = await server.fetch("/camem/events", { signal: client.signal });
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

describe("bad requests", () => {
  const cases: [string, () => Promise<[number, unknown]>, [number, string | null]][] = [
    ["a level that is none", () => server.postJson("/sleep?level=3"), [400, "level"]],
    ["a level that is no number", () => server.postJson("/sleep?level=deep"), [400, "level"]],
    ["an empty level", () => server.postJson("/sleep?level="), [400, "level"]],
    ["a negative level", () => server.postJson("/sleep?level=-1"), [400, "level"]],
    ["two levels", () => server.postJson("/sleep?level=1&level=2"), [400, "level"]],
    ["a level as other text in JSON", () => server.postJson("/sleep", { level: "one" }), [400, "level"]],
    ["an unknown mode", () => server.postJson("/sleep?mode=kill"), [400, "mode"]],
    ["an unknown tag", () => server.postJson("/wake_up?tags=kv_cash"), [400, "tags"]],
    ["an empty tag", () => server.postJson("/sleep?tags="), [400, "tags"]],
    ["tags that are no array", () => server.postJson("/wake_up", { tags: "weights" }), [400, "tags"]],
    ["an unknown mode of pause", () => server.postJson("/pause?mode=later"), [400, "mode"]],
    ["a flag that is none", () => server.postJson("/pause?clear_cache=perhaps"), [400, "clear_cache"]],
    ["a deadline that is none", () => server.postJson("/sleep?deadline_ms=1.5"), [400, "deadline_ms"]],
    ["a body that is no JSON", () => server.postJson("/sleep", "level=1"), [400, null]],
    ["a body that is no object", () => server.postJson("/sleep", "[1]"), [400, null]],
    ["another model", () => server.postJson("/sleep?model=qwen"), [404, "model"]],
  ];
  test.each(cases)("%s is refused and changes nothing", async (_name, call, expected) => {
    expect(await errorOf(call())).toEqual(expected);
    expect(controller.status.state).toBe("awake");
  });

  test("what vLLM ignores is ignored", async () => {
    expect((await server.post("/sleep?id=7", { engine: "x" })).status).toBe(200);
  });

  test.each([
    ["/sleep", "GET", "POST"],
    ["/is_sleeping", "POST", "GET"],
    ["/release_memory_occupation", "DELETE", "GET, POST"],
    ["/camem/events", "PUT", "GET"],
  ])("%s by %s is a 405 that says what is possible", async (path, method, allow) => {
    const response = await server.fetch(path, { method });
    expect([response.status, response.headers.get("allow")]).toEqual([405, allow]);
    expect(await response.json()).toMatchObject(errorShape(405));
  });

  test("a body that is too large, declared or not, is refused before it is read", async () => {
    await serve({}, { bodyLimitBytes: 64 });
    expect(await errorOf(server.postJson("/sleep", " ".repeat(65)))).toEqual([413, null]);
    const chunk = `20\r\n${" ".repeat(32)}\r\n`;
    const answer = await raw(
      server.port,
      `POST /sleep HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n${chunk.repeat(3)}`,
    );
    expect(answer).toStartWith("HTTP/1.1 413");
    expect((await server.post("/sleep", `{"level":1}${" ".repeat(53)}`)).status).toBe(200);
  });

  test("a body may take as long as is configured, also where that is longer than a timer can be set for", async () => {
    await serve({}, { bodyTimeoutMs: Number.MAX_SAFE_INTEGER });
    const body = new ReadableStream({
      async start(output) {
        output.enqueue('{"level"');
        await Bun.sleep(50);
        output.enqueue(":2}");
        output.close();
      },
    });
    const response = await server.fetch("/sleep", { method: "POST", body });
    expect(await response.json()).toEqual({ status: "sleeping", level: 2 });
  });

  test("a body that does not come is given up", async () => {
    await serve({}, { bodyTimeoutMs: 20 });
    const answer = await raw(
      server.port,
      'POST /sleep HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n{"leve',
    );
    expect(answer).toStartWith("HTTP/1.1 408");
    expect(controller.status.state).toBe("awake");
  });

  test.each(["a b", "%zz", "[", "x:99999"])(
    "a malformed Host header is no failure of ours: %s",
    async (host) => {
      const handler = createHandler({ engine: controller, token: "secret" });
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
    },
  );

  test("other paths are none of ours", () => {
    const handler = createHandler({ engine: controller, loopbackOnly: true });
    expect(handler(new Request("http://localhost/v1/models"))).toBeUndefined();
    expect(handler(new Request("http://localhost/health"))).toBeUndefined();
    expect(handler(new Request("http://localhost/sleep/"))).toBeUndefined();
    expect(handler(new Request("http://localhost/camembert"))).toBeUndefined();
  });

  test("what is misspelt below /camem is no request to the model", async () => {
    const response = await server.fetch("/camem/usge");
    expect(response.status).toBe(404);
    expect(await response.text()).toContain("/camem/usge");
  });

  test("bad options are refused", async () => {
    const bad: unknown[] = [
      { engine: controller },
      { engine: controller, loopbackOnly: false },
      { engine: controller, loopbackOnly: "yes" },
      { engine: controller, token: "" },
      { engine: controller, token: "a b" },
      { engine: controller, token: 7 },
      { engine: {}, loopbackOnly: true },
      { engine: controller, loopbackOnly: true, bodyLimitBytes: 0 },
      { engine: controller, loopbackOnly: true, open: true },
    ];
    for (const options of bad)
      expect(await codeOf(() => createHandler(options as HandlerOptions))).toBe("INVALID_CONFIG");
  });
});

describe("access", () => {
  test("with a token nothing is reachable without it", async () => {
    await serve({}, { token: "open-sesame", loopbackOnly: undefined });
    const status = async (path: string, method: string, authorization?: string) =>
      (await server.fetch(path, { method, ...(authorization && { headers: { authorization } }) })).status;
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
    expect(controller.status.state).toBe("awake");
    const refused = await server.post("/sleep");
    expect(refused.headers.get("www-authenticate")).toBe("Bearer");
    expect(await refused.json()).toMatchObject(errorShape(401));
    expect(await status("/is_sleeping", "GET", "Bearer open-sesame")).toBe(200);
    expect(await status("/sleep", "POST", "bearer open-sesame")).toBe(200);
  });

  test.each([
    ["an elsewhere", "10.0.0.7", {}, 403],
    ["an address that looks like ours", "127.0.0.1.evil.example", {}, 403],
    ["this machine", "127.0.0.1", {}, 200],
    ["this machine, IPv6", "::1", { host: "[::1]:8000" }, 200],
    ["this machine, mapped", "::ffff:127.0.0.1", {}, 200],
    ["a name that an attacker has resolve to this machine", "127.0.0.1", { host: "evil.example:8000" }, 403],
    ["another site's page", "127.0.0.1", { origin: "https://evil.example" }, 403],
    ["another port's page", "127.0.0.1", { origin: "http://localhost:3000" }, 403],
    ["a page without an origin", "127.0.0.1", { origin: "null" }, 403],
    ["our own page", "127.0.0.1", { origin: "http://localhost:8000" }, 200],
    ["what another site's page embeds", "127.0.0.1", { "sec-fetch-site": "cross-site" }, 403],
    ["what another port's page embeds", "127.0.0.1", { "sec-fetch-site": "same-site" }, 403],
    ["what our own page fetches", "127.0.0.1", { "sec-fetch-site": "same-origin" }, 200],
    ["what is typed into a browser", "127.0.0.1", { "sec-fetch-site": "none" }, 200],
    ["a proxy", "127.0.0.1", { "x-forwarded-for": "10.0.0.7" }, 403],
    ["a proxy that tells of the host", "127.0.0.1", { "x-forwarded-host": "api.example" }, 403],
    ["a proxy in nginx's customary words", "127.0.0.1", { "x-real-ip": "10.0.0.7" }, 403],
    ["a proxy by the standard", "127.0.0.1", { via: "1.1 edge" }, 403],
  ])("loopback only: %s", async (_name, address, headers, status) => {
    const handler = createHandler({ engine: controller, loopbackOnly: true });
    const request = new Request("http://localhost:8000/is_sleeping", {
      headers: { host: "localhost:8000", ...(headers as Record<string, string>) },
    });
    expect((await handler(request, { requestIP: () => ({ address }) }))?.status).toBe(status);
    expect((await handler(request, { requestIP: () => null }))?.status).toBe(403);
    expect((await handler(request))?.status).toBe(403);
  });

  test("the administrative routes can have a listener of their own", async () => {
    const handler = createHandler({ engine: controller, token: "secret", health: true });
    await using admin = Bun.serve({ port: 0, hostname: "127.0.0.1", routes: handler.routes });
    const headers = { authorization: "Bearer secret" };
    expect(await (await fetch(new URL("/is_sleeping", admin.url), { headers })).json()).toEqual({
      is_sleeping: false,
    });
    expect((await fetch(new URL("/sleep", admin.url), { method: "POST" })).status).toBe(401);
    expect((await fetch(new URL("/health", admin.url))).status).toBe(200);
    expect((await fetch(new URL("/nothing", admin.url), { headers })).status).toBe(404);
  });

  test("as routes, too, they leave nothing below /camem to the model", async () => {
    const { routes } = createHandler({ engine: controller, token: "secret" });
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

describe("requests to the model", () => {
  test("a sleeping engine answers 503 with Retry-After", async () => {
    await serve({ retryAfterSeconds: 7 });
    await controller.sleep();
    const response = await server.fetch("/complete");
    expect([response.status, response.headers.get("retry-after")]).toEqual([503, "7"]);
    expect(await response.json()).toMatchObject({
      error: { type: "ServiceUnavailableError", reason: "ENGINE_UNAVAILABLE", code: 503 },
    });
  });

  test("or holds them, wakes, and answers", async () => {
    await serve({ whenAsleep: "wake", whenOperatorAsleep: "wake" });
    await server.post("/sleep");
    expect(await (await server.fetch("/complete")).text()).toBe(engine.expected("once", 8));
  });

  test("a client that disconnects while held frees its place", async () => {
    await serve({ whenAsleep: "hold", queueLimit: 1 });
    await server.post("/sleep");
    const client = new AbortController();
    const gone = server.fetch("/complete", { signal: client.signal }).catch((error) => error.name);
    await until(() => controller.status.requests.waiting === 1);
    expect((await server.fetch("/complete")).status).toBe(503);
    client.abort();
    expect(await gone).toBe("AbortError");
    await until(() => controller.status.requests.waiting === 0);
    const held = server.fetch("/complete");
    await until(() => controller.status.requests.waiting === 1);
    await server.post("/wake_up");
    expect(await (await held).text()).toBe(engine.expected("once", 8));
    expect(controller.status.requests).toMatchObject({ running: 0, admittedTotal: 1 });
  });

  test("a client that disconnects while its answer is streamed gives its lease back", async () => {
    const client = new AbortController();
    const response = await server.fetch("/complete?stream&length=100000", { signal: client.signal });
    const reader = response.body?.getReader();
    await reader?.read();
    expect(controller.status.requests.running).toBe(1);
    client.abort();
    await until(() => controller.status.requests.running === 0);
    expect(await server.postJson("/sleep?mode=wait")).toMatchObject([200, { status: "sleeping" }]);
  });

  test("a stream that is cancelled before anybody read it gives its lease back", async () => {
    const lease = await controller.admit();
    await leasedStream(lease, engine.generate(lease, "once", 8)).cancel();
    expect(controller.status.requests.running).toBe(0);
  });

  test("a stream that is cancelled in the middle of a step keeps its lease until the engine has tidied up", async () => {
    const lease = await controller.admit();
    const begun = Promise.withResolvers<void>();
    const step = Promise.withResolvers<void>();
    const running: number[] = [];
    async function* source() {
      try {
        begun.resolve();
        await step.promise;
        yield "piece";
      } finally {
        await Bun.sleep(5);
        running.push(controller.status.requests.running);
      }
    }
    const stream = leasedStream(lease, source());
    await begun.promise;
    const cancelled = stream.cancel();
    step.resolve();
    await cancelled;
    expect(running).toEqual([1]);
    expect(controller.status.requests.running).toBe(0);
  });

  test("an answer is streamed across a sleep in mode keep", async () => {
    const response = server.fetch("/complete?stream&length=5000");
    await until(() => controller.status.requests.running === 1);
    expect(await server.postJson("/sleep?mode=keep")).toMatchObject([200, { status: "sleeping" }]);
    expect(controller.status.requests.parked).toBe(1);
    await server.post("/wake_up");
    expect(await (await response).text()).toBe(engine.expected("once", 5000));
  });

  test("a sleep in mode abort ends a stream, and health checks are answered meanwhile", async () => {
    const cut = server.fetch("/complete?stream&length=100000").then(
      (response) =>
        response.text().then(
          () => "ended",
          () => "cut",
        ),
      () => "cut",
    );
    await until(() => controller.status.requests.running === 1);
    const device = holdDevice();
    const slept = server.postJson("/sleep");
    await until(() => engine.weights.state === "moving");
    expect(await server.json("/is_sleeping")).toEqual([200, { is_sleeping: false }]);
    device.release();
    expect(await slept).toEqual([200, { status: "sleeping", level: 1 }]);
    await cut;
  });
});

describe("shutdown", () => {
  test("while asleep: those held are refused, event streams end, nothing hangs", async () => {
    await serve({ whenAsleep: "hold" });
    await server.post("/sleep");
    const stream = server.fetch("/camem/events").then((response) => response.text());
    const held = server.fetch("/complete");
    await until(() => controller.status.requests.waiting === 1);
    server.handler.close();
    await controller.close();
    expect(await stream).toStartWith("event: snapshot\n");
    expect((await held).status).toBe(503);
    expect((await server.fetch("/camem/events")).status).toBe(503);
    await server.stop();
  });

  test("while moving: the caller is told, the memory is as it was", async () => {
    const device = holdDevice();
    const slept = server.postJson("/sleep");
    await until(() => engine.weights.state === "moving");
    await controller.close();
    expect(await errorOf(slept)).toEqual([503, null]);
    device.release();
    await server.stop();
    expect(engine.weights.read()).toEqual(engine.content);
  });

  test("while moving, with the connections cut first", async () => {
    const device = holdDevice();
    const slept = server.postJson("/sleep").catch((error) => error.code);
    await until(() => engine.weights.state === "moving");
    const stopped = server.stop();
    await slept;
    await stopped;
    const closed = controller.close();
    device.release();
    await closed;
    expect(["awake", "asleep"]).toContain(controller.status.state);
  });
});

test("admitRequest refuses a mistake in its call, and no request has a lease by it", async () => {
  const request = new Request("http://localhost/complete");
  const calls: [() => unknown, string][] = [
    [() => admitRequest(controller, request, { modle: "x" } as AdmitRequestOptions), 'no "modle"'],
    [() => admitRequest(controller, undefined as never), "request is undefined"],
    [() => admitRequest(allocator as never, request), "engine is an object"],
  ];
  for (const [call, part] of calls) expect((await failureOf(call)).message).toContain(part);
  expect(controller.status.requests.running).toBe(0);
});
