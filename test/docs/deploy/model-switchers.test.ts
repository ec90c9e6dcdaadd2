/** The recipes for llama-swap and llmsnap of docs/deploy.md. */

import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { complete, go, json } from "./clients.ts";
import { asleep, DeployedServer, type Manifest, manifestsOf, untilIdle, usageOf } from "./server.ts";

const server = new DeployedServer();
afterEach(() => server.end());
afterAll(() => server.remove());

describe("llama-swap", () => {
  const [swap, snap] = manifestsOf("llama-swap").map(({ models }) => models.qwen);

  async function serveFor(environment: readonly string[], changes: Record<string, string> = {}) {
    const env = Object.fromEntries(environment.map((variable) => variable.split("=")));
    const [port = 0] = await server.start({ ...env, PORT: "0", ...changes });
    return port;
  }

  test("llama-swap configuration names one port throughout", () => {
    const port = swap.env.find((variable: string) => variable.startsWith("PORT=")).slice(5);
    for (const command of [swap.cmd, swap.cmdStop])
      expect(/--vllm-url (\S+)/.exec(command)?.[1]).toBe(`http://127.0.0.1:${port}`);
    expect(swap.env.some((variable: string) => variable.startsWith("CAMEM_TOKEN"))).toBe(false);
  });

  /** `vllm-wrapper serve` for a running engine. */
  async function wake(port: number): Promise<void> {
    expect((await go(port)("GET", "/health")).status).toBe(200);
    expect([200, 204]).toContain((await go(port, json)("POST", "/wake_up", "")).status);
    expect((await go(port)("GET", "/health")).status).toBe(200);
  }

  /** A client's request through the wrapper's proxy. */
  async function proxied(port: number): Promise<[number, string | undefined]> {
    const client = go(port, "X-Forwarded-For: 127.0.0.1", json);
    const { status, body } = await client("POST", "/v1/completions", '{"model":"qwen","prompt":"hello"}');
    return [status, status === 200 ? JSON.parse(body).choices[0].text : undefined];
  }

  const served: [number, string] = [200, "hello 7"];

  test("llama-swap's engine sleeps idle and for llama-swap, and wakes for both", async () => {
    const port = await serveFor(swap.env, { IDLE_AFTER: "50ms" });
    await wake(port);
    expect(await proxied(port)).toEqual(served);
    for (let cycle = 0; cycle < 2; cycle++) {
      await untilIdle(port);
      expect(await proxied(port)).toEqual(served);
    }
    // The ttl has passed, or another model needs the room.
    expect((await go(port, json)("POST", "/sleep", '{"level":1}')).status).toBe(200);
    expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
    expect((await usageOf(port)).status.reason).toBe("operator");
    expect((await go(port)("GET", "/health")).status).toBe(200);
    await wake(port);
    expect(await proxied(port)).toEqual(served);
    await untilIdle(port);
    expect((await go(port, json)("POST", "/sleep", '{"level":1}')).status).toBe(200);
    await wake(port);
    expect(await proxied(port)).toEqual(served);
  });

  test("llama-swap's requests get 503 after an idle sleep with refuse, and never with IDLE_AFTER=never", async () => {
    const idle = await serveFor(swap.env, { WHEN_ASLEEP: "refuse", IDLE_AFTER: "50ms" });
    await untilIdle(idle);
    expect(await proxied(idle)).toEqual([503, undefined]);
    await wake(idle);
    await server.end();
    const port = await serveFor(swap.env, { WHEN_ASLEEP: "refuse", IDLE_AFTER: "never" });
    await Bun.sleep(60);
    expect(await proxied(port)).toEqual(served);
  });

  test("llama-swap proxy reaches completions and no administrative route", async () => {
    const port = await serveFor(swap.env);
    const proxied = go(port, "X-Forwarded-For: 127.0.0.1", json);
    expect((await proxied("POST", "/v1/completions", '{"prompt":"hello"}')).status).toBe(200);
    expect((await proxied("POST", "/sleep", '{"level":1}')).status).toBe(403);
    expect((await proxied("GET", "/camem")).status).toBe(403);
    expect((await usageOf(port)).status.state).toBe("awake");
  });

  test("llmsnap's engine sleeps idle and for llmsnap, and answers exactly 200", async () => {
    expect(snap.proxy).toContain(":$" + "{PORT}");
    const environment = snap.cmd.split(" ").filter((word: string) => word.includes("="));
    const port = await serveFor(environment, { IDLE_AFTER: "50ms" });
    const call = async (endpoints: readonly Manifest[]) => {
      for (const { endpoint, method } of endpoints)
        expect((await go(port)(method, endpoint)).status, endpoint).toBe(200);
    };
    expect((await go(port)("GET", snap.checkEndpoint)).status).toBe(200);
    for (let cycle = 0; cycle < 2; cycle++) {
      expect(await proxied(port)).toEqual(served);
      await untilIdle(port);
      expect(await proxied(port)).toEqual(served);
      await call(snap.sleepEndpoints);
      expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
      expect((await usageOf(port)).status.reason).toBe("operator");
      await call(snap.wakeEndpoints);
    }
    // A wake-up of an engine that is awake must not make llmsnap restart it.
    await call(snap.wakeEndpoints);
    expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
    await call([{ endpoint: "/reset_prefix_cache", method: "POST" }]);
  });
});
