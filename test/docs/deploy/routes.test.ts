/** Every route in the tables of docs/deploy.md exists. */

import { afterAll, expect, test } from "bun:test";
import { DeployedServer, page } from "./server.ts";

const server = new DeployedServer();
afterAll(async () => {
  await server.end();
  server.remove();
});

test("server has every route in the tables of deploy.md except the metrics", async () => {
  const [port] = await server.start({});
  const calls = [...page.matchAll(/^\|.*?`(GET|POST) ([^`]+)`/gm)].map(([, method = "", path = ""]) => [
    method,
    path,
  ]);
  expect(calls.length).toBeGreaterThan(15);
  const bodies: Readonly<Record<string, string>> = {
    "/v1/completions": '{"prompt": "hello"}',
    "/update_weights_from_disk": '{"model_path": "qwen"}',
  };
  const missing: string[] = [];
  for (const [method = "", path = ""] of calls) {
    const body = bodies[path] ?? null;
    const { status } = await fetch(`http://127.0.0.1:${port}${path}`, { method, body });
    if (status === 404) missing.push(path);
    else expect([path, status]).toEqual([path, 200]);
    if (path.startsWith("/sleep") || path.startsWith("/release"))
      await fetch(`http://127.0.0.1:${port}/wake_up`, { method: "POST" });
  }
  expect(missing).toEqual(["/metrics"]);
});
