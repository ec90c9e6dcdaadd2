/** Every route in the tables of docs/deploy.md exists. */

import { afterAll, expect, test } from "bun:test";
import { DeployedServer, page, standIn } from "./server.ts";

interface Completion {
  readonly choices: readonly { readonly text: string }[];
}

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

test("server with the stand-in engine of the page answers, and again after level 2", async () => {
  await server.end();
  const [port] = await server.start({}, standIn);
  const post = (path: string, body?: string) =>
    fetch(`http://127.0.0.1:${port}${path}`, { method: "POST", ...(body !== undefined && { body }) });
  const complete = async () =>
    ((await (await post("/v1/completions", '{"prompt": "hello"}')).json()) as Completion).choices[0]?.text;
  expect(await complete()).toBe("hello 7");
  expect((await post("/sleep?level=2")).status).toBe(200);
  expect((await post("/wake_up")).status).toBe(200);
  expect(await complete()).toBe("hello 7");
});
