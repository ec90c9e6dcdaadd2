/** The handler in the real hono and elysia, mounted by the lines of docs/server.md. */

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator } from "camem";
import { type AdminHandler, createHandler, SleepController } from "camem/server";
import type { Elysia } from "elysia";
import { Hono } from "hono";

const root = join(import.meta.dirname, "../../..");
const folder = mkdtempSync(join(tmpdir(), "camem-frameworks-"));

/** Runs the block of docs/server.md that imports a package, with one text replaced, and returns what it exports. */
async function runDocumented<T>(name: string, from: string, to: string): Promise<T> {
  const page = readFileSync(join(root, "docs/server.md"), "utf8");
  const blocks = [...page.matchAll(/^```ts\n(.*?)^```/gms)].map(([, code = ""]) => code);
  const block = blocks.find((code) => code.includes(`from "${name}"`)) ?? "";
  expect(block).toContain(from);
  const program = join(folder, `${name}.ts`);
  const server = JSON.stringify(join(root, "src/server/index.ts"));
  const parts = "const { admin, engine } = globalThis.frameworkParts;";
  await Bun.write(program, `import { admitRequest } from ${server};\n${parts}\n${block.replace(from, to)}`);
  Object.assign(globalThis, { frameworkParts: { admin, engine } });
  return createRequire(import.meta.url)(program);
}

let allocator: CaMemAllocator;
let engine: SleepController;
let admin: AdminHandler;
let stop: () => unknown = () => undefined;

beforeAll(() => symlinkSync(join(root, "node_modules"), join(folder, "node_modules")));
afterAll(() => rmSync(folder, { recursive: true }));

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  allocator.malloc(1, { tag: "weights" });
  engine = new SleepController(allocator, { whenAsleep: "wake", whenOperatorAsleep: "wake" });
  admin = createHandler({ engine, loopbackOnly: true, health: true });
});

afterEach(async () => {
  await stop();
  stop = () => undefined;
  admin.close();
  await engine.close();
  await allocator.close();
});

async function startHono(): Promise<URL> {
  const { server } = await runDocumented<{ server: Bun.Server<undefined> }>(
    "hono",
    "Bun.serve({",
    "export const server = Bun.serve({ port: 0,",
  );
  stop = () => server.stop(true);
  return server.url;
}

async function startElysia(): Promise<URL> {
  const { app } = await runDocumented<{ app: Elysia }>(
    "elysia",
    "app.listen(3000)",
    "app.listen(0); export { app }",
  );
  stop = () => app.stop(true);
  return app.server?.url ?? new URL("http://nowhere");
}

describe.each([
  ["hono", startHono],
  ["elysia", startElysia],
])("handler in %s", (_name, start) => {
  test("answers the administrative routes, and the framework answers the rest", async () => {
    const url = await start();
    const call = async (path: string, init?: RequestInit) => {
      const response = await fetch(new URL(path, url), init);
      return [response.status, await response.text()] as const;
    };
    const json = { "content-type": "application/json" };
    expect(await call("/sleep", { method: "POST", headers: json, body: '{"level":1}' })).toEqual([
      200,
      '{"status":"sleeping","level":1}',
    ]);
    expect(engine.status.state).toBe("asleep");
    expect(await call("/is_sleeping")).toEqual([200, '{"is_sleeping":true}']);
    const completion = { method: "POST", headers: json, body: '{"prompt":"x"}' };
    expect(await call("/v1/completions", completion)).toEqual([200, "run the model here\n"]);
    expect(engine.status.state).toBe("awake");
    expect((await call("/sleep?levl=2", { method: "POST" }))[0]).toBe(400);
    expect((await call("/camem/nope"))[1]).toContain("UNKNOWN_ROUTE");
    expect((await call("/camem"))[1]).toContain("<!doctype html>");
    expect((await call("/health"))[0]).toBe(200);
    expect((await call("/unknown"))[0]).toBe(404);
  });
});

async function refusal(answer: Promise<Response> | undefined) {
  const response = (await answer) ?? Response.error();
  const { error } = (await response.json()) as { error: { reason: string; message: string } };
  return [response.status, error.reason, error.message] as const;
}

test("handler asks for the server when it was not given one", async () => {
  const request = () => new Request("http://localhost/is_sleeping", { headers: { host: "localhost" } });
  const advice = expect.stringContaining("call it as handler(request, server)");
  expect(await refusal(admin(request()))).toEqual([403, "FORBIDDEN", advice]);
  // Without a server hono's environment is an empty object, and a framework may pass its own object.
  expect(await refusal(admin(request(), {} as never))).toEqual([403, "FORBIDDEN", advice]);
  const onSocket = createHandler({ engine, unixSocketOnly: true });
  expect(await refusal(onSocket(request()))).toEqual([403, "FORBIDDEN", advice]);
  onSocket.close();
  await using server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const copy = expect.stringContaining("pass the request itself, not a copy");
  expect(await refusal(admin(request(), server))).toEqual([403, "FORBIDDEN", copy]);
});

test("handler reports a body that was read before", async () => {
  const app = new Hono<{ Bindings: Bun.Server<undefined> }>();
  app.use(async (c, next) => {
    await c.req.json();
    return next();
  });
  app.use(async (c, next) => (await admin(c.req.raw, c.env)) ?? next());
  const server = Bun.serve({ port: 0, fetch: app.fetch });
  stop = () => server.stop(true);
  const answer = fetch(new URL("/sleep", server.url), { method: "POST", body: '{"level":2}' });
  const advice = expect.stringContaining("was read before the handler received it");
  expect(await refusal(answer)).toEqual([500, "BODY_ALREADY_READ", advice]);
  expect(engine.status.state).toBe("awake");
});
