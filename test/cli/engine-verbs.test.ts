/** `camem sleep`, `wake` and `status`, against real servers. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createHandler } from "camem/server";
import { HandlerFixture } from "../server/http/handler-fixture.ts";
import { outcomeOf } from "../support/program.ts";

const cli = join(import.meta.dir, "../../src/cli/main.ts");

let fixture: HandlerFixture;
let address: string;

beforeEach(() => {
  fixture = new HandlerFixture();
  address = fixture.server.url("/").host;
});

afterEach(() => fixture.close());

/** The exit status, standard output and standard error. */
async function camem(args: readonly string[], token = ""): Promise<[number, string, string]> {
  const env = { ...process.env, CAMEM_TOKEN: token };
  const { exitCode, stdout, stderr } = await outcomeOf([process.execPath, cli, ...args], { env });
  return [exitCode, stdout.trim(), stderr.trim()];
}

/** The exit status and standard output. */
const outcome = async (...call: Parameters<typeof camem>) => (await camem(...call)).slice(0, 2);

test("camem sleep, status and wake act on the engine and show its progress", async () => {
  const [code, output, progress] = await camem(["sleep", address, "--level", "2", "--mode", "wait"]);
  expect([code, output]).toEqual([0, "asleep at level 2"]);
  expect(progress).toStartWith("default: falling asleep");
  expect(fixture.engine.weights.state).toBe("discarded");
  expect(await outcome(["sleep", address, "--level=2"])).toEqual([0, "already asleep at level 2"]);
  const [, text] = await camem(["status", `http://${address}/`]);
  expect(text).toContain("default: asleep at level 2, by operator; 0 requests running, 0 waiting");
  expect(text).toContain("  kv_cache: 6 MiB discarded");
  expect(await outcome(["wake", address, "--tags", "kv_cache"])).toEqual([0, "some tags are still asleep"]);
  expect((await camem(["wake", address]))[1]).toStartWith("awake, but without the content of weights");
  fixture.engine.load();
  await fixture.server.post("/camem/confirm_weights");
  expect(await outcome(["wake", address])).toEqual([0, "already awake"]);
});

test("camem sleep obeys --tags and --offload-tags", async () => {
  expect(await outcome(["sleep", address, "--offload-tags", "kv_cache"])).toEqual([0, "asleep at level 2"]);
  expect([fixture.engine.weights.state, fixture.engine.cache.state]).toEqual(["discarded", "offloaded"]);
  await fixture.controller.wakeUp();
  await camem(["sleep", address, "--tags", "kv_cache"]);
  expect(fixture.controller.status.sleepingTags).toEqual(["kv_cache"]);
});

test("camem status --json prints the usage, of one model where it is named", async () => {
  const [code, output] = await camem(["status", address, "--json", "--model", "default"]);
  expect([code, JSON.parse(output)]).toMatchObject([
    0,
    { engines: { default: { status: { state: "awake" } } } },
  ]);
  expect(await camem(["status", address, "--model", "qwen"])).toEqual([
    1,
    "",
    'camem: there is no model "qwen"; the models are default',
  ]);
});

test("camem sends the token of CAMEM_TOKEN, and --token overrides it", async () => {
  await fixture.restart({}, { token: "secret", loopbackOnly: undefined });
  address = fixture.server.url("/").host;
  expect(await camem(["sleep", address])).toEqual([
    1,
    "",
    `camem: ${address} requires a token: set CAMEM_TOKEN, or give --token`,
  ]);
  expect((await camem(["status", address], "wrong"))[2]).toContain("does not accept this token");
  expect(await outcome(["sleep", address], "secret")).toEqual([0, "asleep at level 1"]);
  expect(await outcome(["wake", address, "--token", "secret"], "wrong")).toEqual([0, "awake"]);
});

test("camem sleep passes on why the engine refuses, and exits with 1", async () => {
  const [code, output, errors] = await camem(["sleep", address, "--tags", "weigths"]);
  expect([code, output]).toEqual([1, ""]);
  expect(errors).toContain(`${address} answered 400: this engine has no tag "weigths"`);
  expect(errors).toContain("(UNKNOWN_TAG)");
  const [, , missing] = await camem(["wake", address, "--model", "qwen"]);
  expect(missing).toContain("(UNKNOWN_MODEL)");
  expect(fixture.controller.status.state).toBe("awake");
});

test("camem says that a server has no such routes", async () => {
  await using other = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: () => new Response("", { status: 404 }),
  });
  const [code, , errors] = await camem(["sleep", String(other.url)]);
  expect([code, errors]).toEqual([1, expect.stringContaining("has no /sleep: it is not an engine")]);
});

test.each(["<html>", "", '{"ok":true}'])(
  "camem says that an answer of %p is not an engine's",
  async (body) => {
    await using site = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response(body) });
    for (const [verb, path] of [
      ["status", "camem/usage"],
      ["sleep", "sleep"],
      ["wake", "wake_up"],
    ] as const) {
      const [code, output, errors] = await camem([verb, String(site.url)]);
      expect([code, output]).toEqual([1, ""]);
      expect(errors).toContain(`answered /${path}, but not as an engine of camem does`);
    }
  },
);

test("camem sleep refuses a mode that does not exist", async () => {
  const [code, , errors] = await camem(["sleep", address, "--mode", "weit"]);
  expect([code, errors]).toEqual([
    2,
    expect.stringContaining('--mode is "weit"; it must be abort, wait or keep'),
  ]);
});

test("camem exits with 3 when nothing listens", async () => {
  await fixture.server.stop();
  for (const [target, why] of [
    [address, "nothing listens there"],
    ["unix:/nowhere/engine.sock", "there is no such socket"],
  ] as const)
    expect(await camem(["status", target])).toEqual([3, "", `camem: cannot reach ${target}: ${why}`]);
});

test("camem reaches an engine on a Unix socket", async () => {
  const folder = mkdtempSync(join(tmpdir(), "camem-socket-"));
  const unix = join(folder, "engine.sock");
  const { routes } = createHandler({ engine: fixture.controller, unixSocketOnly: true });
  const server = Bun.serve({ unix, routes });
  expect(await outcome(["sleep", `unix:${unix}`])).toEqual([0, "asleep at level 1"]);
  await server.stop(true);
  rmSync(folder, { recursive: true });
});

test.each([
  [["sleep"], "say which engine"],
  [["wake", "ftp://host"], "is not an engine's address"],
  [["wake", "http://host:1/?level=1"], "more than a host and a path"],
  [["status", "host:1", "host:2"], 'unexpected argument "host:2"'],
  [["status", "unix:engine.sock"], "no absolute path"],
  [["sleep", "host:1", "--level", "3"], "--level is"],
  [["wake", "host:1", "--level", "1"], "there is no option --level"],
  [["status", "host:1", "--token", "a b"], "the token is empty or not printable"],
])("camem %p exits with 2 and says what is wrong", async (args, words) => {
  const [code, output, errors] = await camem(args);
  expect([code, output]).toEqual([2, ""]);
  expect(errors.split("\n")[0]).toContain(words);
});
