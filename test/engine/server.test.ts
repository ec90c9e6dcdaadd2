/** The engine as a server: it answers, streams and ends while it sleeps and wakes. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { type BuiltEngine, buildEngine, EngineProcess, preloadLibrary } from "./engine.ts";

let engine: BuiltEngine;

beforeAll(() => {
  engine = buildEngine();
}, 300_000);
afterAll(() => rm(engine.folder, { recursive: true, force: true }));

/** A server that listens, and the address of its completions. */
async function serve(onTouch: string): Promise<{ running: EngineProcess; url: string }> {
  const probe = Bun.serve({ port: 0, fetch: () => new Response() });
  const { port } = probe;
  await probe.stop(true);
  const running = await EngineProcess.start(engine, {
    preload: preloadLibrary,
    arguments: ["--port", String(port)],
    environment: { CAMEM_ON_TOUCH: onTouch },
  });
  const url = `http://127.0.0.1:${port}/v1/completions`;
  await running.answer(); // it listens
  return { running, url };
}

const completion = { method: "POST", body: JSON.stringify({ prompt: "once", max_tokens: 4 }) };

test("a request to a sleeping server wakes it", async () => {
  const { running, url } = await serve("wake");
  await using _ = running;
  await using allocator = await running.connect();
  await allocator.sleep();
  const response = await fetch(url, completion);
  expect(response.status).toBe(200);
  expect(allocator.status()).toMatchObject({ gate: "open", ownWakeUps: 1 });
});

test("a server that is asked to end while a request waits at the gate ends at once", async () => {
  const { running, url } = await serve("hold");
  await using _ = running;
  await using allocator = await running.connect();
  await allocator.sleep();
  const response = fetch(url, completion);
  while (allocator.status().waitingCalls < 1) await Bun.sleep(1);
  running.process.kill("SIGTERM");
  expect((await response).status).toBe(500);
  expect(await running.process.exited).toBe(0);
});
