/** The gateway with programs that use no device: start, stop, routes, groups, failures. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { until } from "../support/fake-engine.ts";
import { GatewayFixture } from "./gateway-fixture.ts";

const program = join(import.meta.dir, "../run/engine-program.ts");
const command = (...behaviours: string[]) =>
  JSON.stringify([process.execPath, program, "$" + "{PORT}", ...behaviours]);

const two = `
engines:
  one: { command: ${command()}, models: [first] }
  two: { command: ${command()} }
`;

test("Gateway starts an engine for its first request, and ends it when it ends itself", async () => {
  let pid = 0;
  {
    await using fixture = await GatewayFixture.start(two);
    expect(fixture.states).toEqual({ one: "asleep", two: "asleep" });
    expect(await fixture.complete("first")).toStartWith('200 POST /v1/completions {"model":"first"');
    expect(fixture.states).toEqual({ one: "awake", two: "asleep" });
    pid = Number(/pid (\d+)/.exec(fixture.reports.join())?.[1]);
    process.kill(pid, 0);
  }
  expect(() => process.kill(pid, 0)).toThrow("ESRCH");
});

test("Gateway ends an engine whose size is unknown before it starts another on the same device", async () => {
  await using fixture = await GatewayFixture.start(two);
  await fixture.complete("one");
  expect(await fixture.complete("two")).toStartWith("200 ");
  expect(fixture.states).toEqual({ one: "asleep", two: "awake" });
});

test("Gateway lets engines of one group be awake together when swap is false", async () => {
  await using fixture = await GatewayFixture.start(`${two}
groups:
  together: { engines: [one, two], swap: false }
`);
  await Promise.all([fixture.complete("one"), fixture.complete("two")]);
  expect(fixture.states).toEqual({ one: "awake", two: "awake" });
});

test("Gateway keeps a persistent engine awake", async () => {
  await using fixture = await GatewayFixture.start(`
engines:
  kept: { command: ${command()}, preload: true }
  other: { command: ${command()} }
groups:
  kept: { engines: [kept], persistent: true }
`);
  await until(() => fixture.states["kept"] === "awake");
  expect(await fixture.complete("other")).toStartWith("200 ");
  expect(fixture.states).toEqual({ kept: "awake", other: "awake" });
});

test("Gateway ends an engine when its ttl has passed, and starts it again", async () => {
  await using fixture = await GatewayFixture.start(`
engines:
  one: { command: ${command()}, ttl: 50ms }
`);
  expect(await fixture.complete("one")).toStartWith("200 ");
  await until(() => fixture.states["one"] === "asleep");
  expect(fixture.gateway.pool.engines.get("one")?.status.level).toBe(2);
  expect(await fixture.complete("one")).toStartWith("200 ");
  expect(fixture.reports.filter((line) => line.includes("started"))).toHaveLength(2);
});

test("Gateway starts an engine again after it has died, with backoff", async () => {
  await using fixture = await GatewayFixture.start(`engines: { one: { command: ${command()} } }`);
  await fixture.complete("one");
  await fixture.fetch("/exit", { method: "POST", body: "now" }).catch(() => undefined);
  await until(() => fixture.states["one"] === "asleep");
  expect(fixture.reports.at(-1)).toBe("one: ended unexpectedly with exit code 5");
  const refused = await fixture.complete("one");
  expect(refused).toStartWith("503 ");
  await Bun.sleep(1_000);
  expect(await fixture.complete("one")).toStartWith("200 ");
});

test("Gateway refuses requests for an engine that does not start", async () => {
  await using fixture = await GatewayFixture.start(`
engines:
  broken: { command: ${command("exits-7")} }
  missing: { command: camem-no-such-program }
  silent: { command: ${command("never-listens")}, ready_deadline: 100ms }
`);
  for (const name of ["broken", "missing", "silent"]) {
    expect(await fixture.complete(name)).toStartWith("503 ");
    expect(fixture.states[name]).toBe("asleep");
  }
  expect(fixture.reports.join("\n")).toContain("broken: ended unexpectedly with exit code 7");
});

test("Gateway ends an engine that ignores SIGTERM", async () => {
  const fixture = await GatewayFixture.start(`
stop_deadline: 100ms
engines: { stubborn: { command: ${command("ignores-sigterm")} } }
`);
  await fixture.complete("stubborn");
  const pid = Number(/pid (\d+)/.exec(fixture.reports.join())?.[1]);
  await fixture[Symbol.asyncDispose]();
  expect(() => process.kill(pid, 0)).toThrow("ESRCH");
});

test("Gateway leaves no process behind when it ends while an engine starts", async () => {
  const fixture = await GatewayFixture.start(`engines: { silent: { command: ${command("never-listens")} } }`);
  const pending = fixture.complete("silent");
  await until(() => fixture.reports.length > 0);
  const pid = Number(/pid (\d+)/.exec(fixture.reports.join())?.[1]);
  await fixture[Symbol.asyncDispose]();
  expect(await pending).toStartWith("503 ");
  expect(() => process.kill(pid, 0)).toThrow("ESRCH");
});

test("Gateway routes by the model in JSON, a form, the query and the path", async () => {
  await using fixture = await GatewayFixture.start(`${two}
groups: { together: { engines: [one, two], swap: false } }`);
  const form = new FormData();
  form.set("file", new Blob(["sound"]), "a.wav");
  form.set("model", "first");
  const answers = await Promise.all(
    (
      [
        ["/v1/audio/transcriptions", { method: "POST", body: form }],
        ["/tokenize?model=two", { method: "POST", body: "text" }],
        ["/upstream/two/slots?x=1", { method: "POST" }],
      ] as const
    ).map(async ([path, init]) => await (await fixture.fetch(path, init)).text()),
  );
  expect(answers[0]).toStartWith("POST /v1/audio/transcriptions ");
  expect(answers[1]).toBe("POST /tokenize text");
  expect(answers[2]).toBe("POST /slots ");
  const redirect = await fixture.fetch("/upstream/two?x=1", { redirect: "manual" });
  expect([redirect.status, redirect.headers.get("location")]).toEqual([307, "/upstream/two/?x=1"]);
  expect(await (await fixture.fetch("/upstream/two/")).text()).toBe("GET / ");
});

test.each([
  ["/v1/completions", '{"model":"other"}', 404, "model"],
  ["/v1/completions", '{"prompt":"once"}', 400, "model"],
  ["/v1/completions", '{"model":1}', 400, "model"],
  ["/v1/completions", "{", 400, null],
  ["/upstream/other/x", "{}", 404, "model"],
  ["/upstream/one/sleep", "{}", 404, null],
  ["/upstream/one/%73leep", "{}", 404, null],
] as const)("Gateway refuses %s with %s", async (path, body, status, param) => {
  await using fixture = await GatewayFixture.start(two);
  const response = await fixture.fetch(path, { method: "POST", body });
  expect(response.status).toBe(status);
  expect(await response.json()).toMatchObject({ error: { param } });
  expect(fixture.reports).toEqual([]);
});

test("Gateway refuses a body beyond its limit", async () => {
  await using fixture = await GatewayFixture.start(`body_limit: 1KiB\n${two}`);
  expect(await fixture.complete("one", "a".repeat(2000))).toStartWith("413 ");
  expect(fixture.reports).toEqual([]);
});

test("Gateway lists the models of all engines, and wakes none for it", async () => {
  await using fixture = await GatewayFixture.start(two);
  const list = (await (await fixture.fetch("/v1/models")).json()) as { data: { id: string }[] };
  expect(list.data.map(({ id }) => id)).toEqual(["one", "first", "two"]);
  expect(await (await fixture.fetch("/v1/models/first")).json()).toMatchObject({
    id: "first",
    camem: { engine: "one", state: "asleep" },
  });
  for (const id of ["none", "%zz"]) expect((await fixture.fetch(`/v1/models/${id}`)).status).toBe(404);
  expect((await fixture.fetch("/v1/slots?model=one")).status).toBe(503);
  expect(fixture.reports).toEqual([]);
});

test("Gateway serves the sleep routes and the metrics of its engines", async () => {
  await using fixture = await GatewayFixture.start(two);
  await fixture.complete("one");
  expect((await fixture.fetch("/sleep?level=2&model=first", { method: "POST" })).status).toBe(200);
  expect(fixture.states["one"]).toBe("asleep");
  expect(await (await fixture.fetch("/is_sleeping?model=first")).json()).toMatchObject({ is_sleeping: true });
  expect((await fixture.fetch("/sleep?model=second", { method: "POST" })).status).toBe(404);
  expect((await fixture.fetch("/wake_up?model=two", { method: "POST" })).status).toBe(200);
  expect(fixture.states).toEqual({ one: "asleep", two: "awake" });
  expect(await (await fixture.fetch("/metrics")).text()).toContain(
    'camem_engine_state{model_name="two",state="awake"} 1',
  );
  expect((await fixture.fetch("/health")).status).toBe(200);
});
