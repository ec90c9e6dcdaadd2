/** Engines that the gateway has not started: servers with sleep routes, and engines under the library. */

import { expect, test } from "bun:test";
import { until } from "../support/fake-engine.ts";
import { GatewayFixture } from "./gateway-fixture.ts";

/** A server with the sleep routes of vLLM or SGLang. */
class PeerServer implements Disposable {
  readonly calls: string[] = [];
  readonly server: Bun.Server<undefined>;
  isSleeping = false;
  failsToWake = false;
  /** A sleep that has begun goes on whether or not its client waits for it. */
  sleepMs = 0;

  constructor() {
    this.server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (request) => this.#answer(request) });
  }

  async #answer(request: Request): Promise<Response> {
    const { pathname, search } = new URL(request.url);
    if (pathname === "/is_sleeping") return Response.json({ is_sleeping: this.isSleeping });
    if (pathname === "/v1/models") return Response.json({ data: [{ id: "an-adapter" }] });
    if (request.method === "POST") this.calls.push(`${pathname}${search}`);
    if (pathname === "/sleep") await Bun.sleep(this.sleepMs);
    if (/^\/(sleep|release_memory_occupation)$/.test(pathname)) this.isSleeping = true;
    if (/^\/(wake_up|resume_memory_occupation)$/.test(pathname)) {
      if (this.failsToWake) return new Response("out of memory", { status: 500 });
      this.isSleeping = false;
    }
    if (pathname.startsWith("/v1/") && this.isSleeping) return new Response("asleep", { status: 500 });
    return new Response("text");
  }

  get url(): string {
    return `http://127.0.0.1:${this.server.port}`;
  }

  [Symbol.dispose](): void {
    this.server.stop(true);
  }
}

test("Gateway makes servers of vLLM and SGLang take turns", async () => {
  using vllm = new PeerServer();
  using sglang = new PeerServer();
  await using fixture = await GatewayFixture.start(`
minimum_residency: 0
engines:
  one: { url: "${vllm.url}", memory: 1GiB }
  two: { url: "${sglang.url}", api: sglang, memory: 1GiB }
groups: { turns: { engines: [one, two] } }`);
  expect(await fixture.complete("one")).toBe("200 text");
  expect(await fixture.complete("two")).toBe("200 text");
  expect(await fixture.complete("one")).toBe("200 text");
  expect(vllm.calls).toEqual(["/v1/completions", "/sleep?level=1", "/wake_up", "/v1/completions"]);
  expect(sglang.calls).toEqual([
    "/resume_memory_occupation",
    "/v1/completions",
    "/release_memory_occupation",
  ]);
  expect(fixture.states).toEqual({ one: "awake", two: "asleep" });
});

test("Gateway knows that a server sleeps whose sleep nobody waited for", async () => {
  using one = new PeerServer();
  using two = new PeerServer();
  one.sleepMs = 300;
  await using fixture = await GatewayFixture.start(`
minimum_residency: 0
engines:
  one: { url: "${one.url}", memory: 1GiB }
  two: { url: "${two.url}", memory: 1GiB }
groups: { turns: { engines: [one, two] } }`);
  expect(await fixture.complete("one")).toBe("200 text");
  const client = new AbortController();
  const body = JSON.stringify({ model: "two" });
  const request = { method: "POST", body, signal: client.signal };
  const gone = fixture.fetch("/v1/completions", request).catch(() => "left");
  await until(() => one.calls.includes("/sleep?level=1"));
  client.abort();
  expect(await gone).toBe("left");
  // One client less, the pool wakes it again at once.
  await until(() => fixture.states["one"] !== "falling-asleep");
  for (let round = 0; round < 2; round++) expect(await fixture.complete("one")).toBe("200 text");
});

test("Gateway wakes a server of vLLM that sleeps already", async () => {
  using vllm = new PeerServer();
  vllm.isSleeping = true;
  await using fixture = await GatewayFixture.start(`engines: { one: { url: "${vllm.url}" } }`);
  expect(await fixture.complete("one")).toBe("200 text");
  expect(vllm.calls).toEqual(["/wake_up", "/v1/completions"]);
});

test("Gateway refuses requests when a server cannot be woken, and tries again", async () => {
  using vllm = new PeerServer();
  await using fixture = await GatewayFixture.start(`engines: { one: { url: "${vllm.url}", idle: 30ms:1 } }`);
  await fixture.complete("one");
  await until(() => fixture.states["one"] === "asleep");
  vllm.failsToWake = true;
  expect(await fixture.complete("one")).toStartWith("503 ");
  expect(fixture.states["one"]).toBe("asleep");
  vllm.failsToWake = false;
  expect(await fixture.complete("one")).toBe("200 text");
});

test("Gateway sends a model to the server that lists it", async () => {
  using vllm = new PeerServer();
  await using fixture = await GatewayFixture.start(`engines: { one: { url: "${vllm.url}" } }`);
  await fixture.complete("one");
  expect(await (await fixture.fetch("/v1/models/an-adapter")).json()).toMatchObject({
    camem: { engine: "one" },
  });
  expect(await fixture.complete("an-adapter")).toBe("200 text");
});

test("Gateway refuses requests for a server without sleep routes, and for one that is not there", async () => {
  using plain = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: () => new Response(null, { status: 404 }),
  });
  await using fixture = await GatewayFixture.start(`
engines:
  plain: { url: "http://127.0.0.1:${plain.port}" }
  nobody: { url: "http://127.0.0.1:1", ready_deadline: 50ms }
  socket: { socket: /nothing.sock, upstream: "http://127.0.0.1:1" }`);
  for (const name of ["plain", "nobody", "socket"]) expect(await fixture.complete(name)).toStartWith("503 ");
});
