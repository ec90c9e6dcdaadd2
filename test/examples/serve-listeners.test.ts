/** What the example server's listeners answer beside completions: keys, sockets, logs, malformed requests. */

import { afterEach, expect, spyOn, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ServeOptions } from "../../examples/serve/options.ts";
import { ExampleServer } from "../../examples/serve/server.ts";
import { raw } from "../support/test-server.ts";
import { ServeClient } from "./serve-client.ts";
import { answer, ask, defaults, model } from "./serve-fixture.ts";

let server: ExampleServer | undefined;

async function start(options: Partial<ServeOptions>): Promise<ServeClient> {
  server = await ExampleServer.start({ ...defaults, models: [model], ...options });
  return new ServeClient(server.url);
}

afterEach(() => server?.stop());

test("server answers a malformed or missing Host header without an error page", async () => {
  await start({});
  const port = Number(server?.url.port);
  const chat = JSON.stringify({ messages: [{ role: "user", content: "x" }], max_tokens: 1 });
  for (const [target, status, body = ""] of [
    ["GET /", 200],
    ["GET /nothing", 404],
    ["GET /v1/models", 200],
    ["GET /metrics", 200],
    ["GET /v1/models/%zz", 404],
    ["POST /v1/chat/completions", 200, chat],
    ["GET /is_sleeping", 403],
  ] as const)
    for (const head of [
      `${target} HTTP/1.0\r\nContent-Length: ${body.length}\r\n`,
      ...["[", "a b", "x:99999", "%zz"].map(
        (host) =>
          `${target} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\nContent-Length: ${body.length}\r\n`,
      ),
    ]) {
      const text = await raw(port, `${head}\r\n${body}`);
      expect([head, text.slice(9, 12)]).toEqual([head, String(status)]);
      expect(text).not.toContain("server.ts");
    }
});

test("server requires the API key on OpenAI's routes only", async () => {
  const client = await start({ apiKey: "sk-example" });
  expect((await client.complete(ask))[0]).toBe(401);
  expect((await client.fetch("/v1/models")).status).toBe(401);
  expect((await client.fetch("/metrics")).status).toBe(200);
  expect((await client.fetch("/is_sleeping")).status).toBe(200);
  const headers = { authorization: "Bearer sk-example" };
  const response = await client.fetch("/v1/completions", {
    method: "POST",
    headers,
    body: JSON.stringify(ask),
  });
  expect(await response.json()).toMatchObject({ choices: [{ text: answer }] });
});

test("server puts the sleep endpoints on a Unix socket alone", async () => {
  const folder = mkdtempSync(join(tmpdir(), "camem-serve-"));
  const unix = join(folder, "admin.sock");
  const client = await start({ adminSocket: unix });
  expect(server?.adminUrl.protocol).toBe("unix:");
  expect((await client.fetch("/sleep", { method: "POST" })).status).toBe(404);
  expect((await client.fetch("/health")).status).toBe(200);
  const slept = await fetch("http://engine/sleep", { unix, method: "POST" });
  expect(await slept.json()).toEqual({ status: "sleeping", level: 1 });
  await fetch("http://engine/wake_up", { unix, method: "POST" });
  expect((await client.complete(ask))[1].choices[0]?.text).toBe(answer);
  await server?.stop();
  expect(existsSync(unix)).toBe(false);
  rmSync(folder, { recursive: true });
});

test("--log prints one line for each request, and for a stream when it has ended", async () => {
  const written = spyOn(console, "log").mockImplementation(() => undefined);
  try {
    const client = await start({ log: true });
    await client.stream({ ...ask, max_tokens: 2 });
    await client.fetch("/is_sleeping?model=tiny-llama");
    await client.fetch("/nothing");
    const lines = written.mock.calls.map(([line]) => String(line));
    expect(lines.map((line) => line.replace(/^\S+Z /, "").replace(/ \d+ ms$/, ""))).toEqual([
      "POST /v1/completions 200",
      "GET /is_sleeping?model=tiny-llama 200",
      "GET /nothing 404",
    ]);
    const leaving = new AbortController();
    const body = JSON.stringify({ ...ask, max_tokens: 200, stream: true });
    const { signal } = leaving;
    const stream = await client.fetch("/v1/completions", { method: "POST", body, signal });
    await stream.body?.getReader().read();
    leaving.abort();
    while (written.mock.calls.length < 4) await Bun.sleep(5);
    expect(String(written.mock.calls[3]?.[0])).toEndWith(", the client left");
  } finally {
    written.mockRestore();
  }
});

test("/v1/chat/completions writes the prompt by the model folder's template", async () => {
  const client = await start({});
  const parts = [
    { type: "text", text: "Call me " },
    { type: "text", text: "Ishmael." },
  ];
  const messages = [
    { role: "system", content: "Of whales." },
    { role: "user", content: parts },
  ];
  const [status, chat] = await client.post("/v1/chat/completions", { messages, max_tokens: 20 });
  const text = await client.text({ prompt: "Of whales.\nCall me Ishmael.\n", max_tokens: 20 });
  expect([status, chat]).toMatchObject([
    200,
    { object: "chat.completion", choices: [{ message: { role: "assistant", content: text } }] },
  ]);
  const image = [{ role: "user", content: [{ type: "image_url", image_url: { url: "data:" } }] }];
  expect(await client.post("/v1/chat/completions", { messages: image })).toMatchObject([
    400,
    { error: { param: "messages" } },
  ]);
});
