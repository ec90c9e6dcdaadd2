/** The calls of kvcached's controller and of SGLang's and verl's adapters, as docs/deploy.md lists them. */

import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { aiohttp, complete, requests } from "./clients.ts";
import { asleep, DeployedServer, untilIdle, usageOf } from "./server.ts";

const server = new DeployedServer();
afterEach(() => server.end());
afterAll(() => server.remove());

describe("kvcached's controller", () => {
  test("vLLM engine sleeps for kvcached, with the level as text, also after an idle sleep", async () => {
    const [port = 0] = await server.start({ IDLE_AFTER: "50ms" });
    const call = aiohttp(port);
    const isSleeping = async () => JSON.parse((await call("GET", "/is_sleeping")).body).is_sleeping;
    for (let cycle = 0; cycle < 2; cycle++) {
      await untilIdle(port);
      expect((await call("POST", "/sleep", '{"level": "1"}')).status).toBe(200);
      expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
      expect((await usageOf(port)).status.reason).toBe("operator");
      expect(await isSleeping()).toBe(true);
      expect((await call("POST", "/wake_up")).status).toBe(200);
      expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
    }
  });

  test("SGLang engine releases, resumes, and loads the weights that kvcached names", async () => {
    const [port = 0] = await server.start({ IDLE_AFTER: "50ms" });
    const call = aiohttp(port);
    const load = (model: string) =>
      call("POST", "/update_weights_from_disk", JSON.stringify({ model_path: model }));
    for (let cycle = 0; cycle < 2; cycle++) {
      await untilIdle(port);
      expect((await call("POST", "/release_memory_occupation", "{}")).status).toBe(200);
      expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
      expect((await call("POST", "/resume_memory_occupation", "{}")).status).toBe(200);
      const loaded = await load("qwen");
      expect([loaded.status, JSON.parse(loaded.body).success]).toEqual([200, true]);
      expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
    }
    const other = await load("llama");
    expect([other.status, JSON.parse(other.body).success]).toEqual([500, false]);
    expect((await usageOf(port)).status.state).toBe("awaiting-weights");
    expect((await load("qwen")).status).toBe(200);
    expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
  });
});

describe("SGLang's and verl's adapters", () => {
  test("engine passes their start, sleeps idle, and sleeps and wakes for them", async () => {
    const [port = 0] = await server.start({ IDLE_AFTER: "50ms" });
    const start = requests(
      port,
      "Authorization: Bearer None",
      "Content-Type: application/json; charset=utf-8",
    );
    expect((await start("GET", "/health_generate")).status).toBe(200);
    expect((await start("GET", "/flush_cache")).status).toBe(200);
    const call = requests(port);
    for (const body of ["{}", '{"tags": ["weights"]}']) {
      await untilIdle(port);
      // A probe wakes nothing.
      expect((await call("GET", "/health_generate")).status).toBe(200);
      expect((await usageOf(port)).status.state).toBe("asleep");
      expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
      const released = await call("POST", "/release_memory_occupation", body);
      expect([released.status, JSON.parse(released.body)]).toEqual([200, null]);
      expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
      expect((await call("GET", "/health_generate")).status).toBe(503);
      const resumed = await call("POST", "/resume_memory_occupation", body);
      expect([resumed.status, JSON.parse(resumed.body)]).toEqual([200, null]);
      expect((await call("POST", "/flush_cache", "{}")).status).toBe(200);
      expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
    }
  });
});
