/** Starting and stopping the example server: its options, its command line, and signals. */

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { parseCommandLine } from "../../examples/serve/options.ts";
import { ExampleServer } from "../../examples/serve/server.ts";
import { StopFilter } from "../../examples/serve/stop-filter.ts";
import { accounting, granulesBetween, MiB, nothingHeld, onEmulator } from "../support/device.ts";
import { rejectionMessage } from "../support/rejection.ts";
import { type Completion, ServeClient } from "./serve-client.ts";
import { answer, ask, defaults, expected, model, prompt, root, twin } from "./serve-fixture.ts";

describe("ExampleServer.start()", () => {
  test("ExampleServer serves administrative routes only on the admin port, with the token", async () => {
    await using server = await ExampleServer.start({
      ...defaults,
      models: [model],
      adminPort: 0,
      token: "secret",
    });
    const client = new ServeClient(server.url);
    expect(server.adminUrl.port).not.toBe(server.url.port);
    expect((await client.post("/sleep"))[0]).toBe(404);
    expect((await client.fetch("/health")).status).toBe(200);
    const sleep = (headers: Record<string, string>) =>
      fetch(new URL("/sleep", server.adminUrl), { method: "POST", headers });
    expect((await sleep({})).status).toBe(401);
    expect((await sleep({ authorization: "Bearer secret" })).status).toBe(200);
    expect(await client.text({ prompt, max_tokens: 40 })).toBe(answer);
  });

  test("ExampleServer sleeps by its idle ladder, and a request wakes it", async () => {
    const idle = [{ after: "20ms", level: 1 } as const, { after: "40ms", level: 2 } as const];
    await using server = await ExampleServer.start({ ...defaults, models: [model], idle });
    const client = new ServeClient(server.url);
    const level = async () => (await client.usage()).engines[model]?.status.level;
    while ((await level()) !== 2) await Bun.sleep(5);
    expect(await client.text(ask)).toBe(answer);
  });

  test("ExampleServer leaves an operator's sleep alone by default, and refuses or holds while paused", async () => {
    const { wakeOperatorSleep } = parseCommandLine([], {}).options;
    const options = { ...defaults, models: [model], wakeOperatorSleep, whenPaused: "refuse" } as const;
    await using server = await ExampleServer.start(options);
    const client = new ServeClient(server.url);
    await client.post("/sleep");
    const held = client.text(ask);
    while ((await client.usage()).engines[model]?.queue.waiting !== 1) await Bun.sleep(1);
    await Bun.sleep(20);
    expect(await client.state(model)).toBe("asleep");
    await client.post("/wake_up");
    expect(await held).toBe(answer);
    await client.post("/pause");
    const refused = await client.fetch("/v1/completions", { method: "POST", body: JSON.stringify(ask) });
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "5"]);
    await client.post("/resume");
    expect(await client.text(ask)).toBe(answer);
  });

  test("ExampleServer.start() succeeds after an earlier start failed", async () => {
    // Without `development`, Bun lets several servers share a port unless all of them refuse to.
    const production = { development: false, fetch: () => new Response() };
    using squatter = Bun.serve({ port: 0, hostname: "127.0.0.1", ...production });
    const start = (port: number) => ExampleServer.start({ ...defaults, port });
    expect(await rejectionMessage(start(Number(squatter.port)))).toContain("in use");
    await using server = await start(0);
    expect(Object.keys(server.allocator.usage())).toHaveLength(6);
    expect(await new ServeClient(server.url).text(ask)).toBe(answer);
  });

  test.skipIf(!onEmulator)(
    "stop() holds nothing after it ends a held request and a sleeping model",
    async () => {
      const server = await ExampleServer.start(defaults);
      const client = new ServeClient(server.url);
      await client.post(`/sleep?level=1&model=${twin}`);
      await client.post(`/pause?model=${model}`);
      const held = client.fetch("/v1/completions", { method: "POST", body: JSON.stringify(ask) });
      while ((await client.usage()).engines[model]?.queue.waiting !== 1) await Bun.sleep(1);
      await server.stop();
      await held.then((response) => expect(response.status).toBe(503)).catch(() => undefined);
      expect(accounting()).toEqual(nothingHeld);
    },
  );

  test("parseCommandLine() reads options and environment variables, and names invalid ones", () => {
    const parse = (args: string[], environment = {}) => parseCommandLine(args, environment).options;
    expect(parse([])).toMatchObject({ models: [model, twin], port: 8000, idle: [], token: undefined });
    expect(parse([])).toMatchObject({ wakeOperatorSleep: false, whenPaused: "hold" });
    expect(parse(["--wake-operator-sleep", "--when-paused", "refuse"])).toMatchObject({
      wakeOperatorSleep: true,
      whenPaused: "refuse",
    });
    expect(parse(["--idle", "5m:1,1h:2"]).idle).toEqual([
      { after: "5m", level: 1 },
      { after: "1h", level: 2 },
    ]);
    expect(parse([], { CAMEM_IDLE: "30s:2", CAMEM_TOKEN: "secret" })).toMatchObject({
      idle: [{ after: "30s", level: 2 }],
      token: "secret",
    });
    for (const args of [
      ["--port", "x"],
      ["--models", "a,a"],
      ["--idle", "5m"],
      ["--idle", "soon:1"],
      ["--idle", "1h:1,5m:2"],
      ["--idle", "5m:2,1h:1"],
      ["--idle", "1m:1,2m:2,3m:2"],
      ["--residency", "soon"],
      ["--kv-cache", "much"],
      ["--when-paused", "wake"],
      ["--no"],
    ])
      expect(() => parse(args)).toThrow(args[0]);
    expect(() => parse([], { CAMEM_IDLE: "5m" })).toThrow("CAMEM_IDLE");
    expect(() => parse([], { CAMEM_TOKEN: "a b" })).toThrow("CAMEM_TOKEN");
  });
});

test("StopFilter holds back text that may start a stop text", () => {
  const filter = new StopFilter(["stop", "top hat"]);
  expect(filter.push("a s")).toEqual({ text: "a ", stopped: false });
  expect(filter.push("to")).toEqual({ text: "", stopped: false });
  expect(filter.push("ry to")).toEqual({ text: "story ", stopped: false });
  expect(filter.flush()).toBe("to");
  expect(filter.push("xstop it")).toEqual({ text: "x", stopped: true });
});

describe("bun run serve", () => {
  async function start(environment: Record<string, string> = {}) {
    const child = Bun.spawn([process.execPath, "run", "serve", "--port", "0", "--residency", "0ms"], {
      cwd: root,
      env: { ...process.env, ...environment },
      stdout: "pipe",
      stderr: "inherit",
    });
    let output = "";
    const decoder = new TextDecoder();
    for await (const chunk of child.stdout) {
      output += decoder.decode(chunk, { stream: true });
      if (output.includes("Ctrl-C")) break;
    }
    const url = /at (http:\S+)/.exec(output)?.[1] ?? "";
    return { child, output, url, client: new ServeClient(url) };
  }

  test.each([
    [["--kv-cache", "0"], {}, 2, "--kv-cache is 0 B, but the model needs at least"],
    [["--host", "192.0.2.1"], {}, 1, "give --host an address of this machine"],
    [[], { CAMEM_BACKEND: "", CAMEM_RETAIN: "lots" }, 1, 'retain (CAMEM_RETAIN) is "lots"'],
  ])("bun run serve refuses %j with %j in one line", (args, environment, exitCode, part) => {
    const command = [process.execPath, "examples/serve/main.ts", "--port", "0", ...args];
    const env = { ...process.env, ...environment };
    const result = Bun.spawnSync(command, { cwd: root, env });
    expect(result.exitCode).toBe(exitCode);
    const errors = result.stderr.toString();
    expect(errors).toContain(part);
    expect(errors).not.toContain("    at ");
    expect(result.stdout.toString()).not.toContain("INVALID_CONFIG");
  });

  test("bun run serve prints its backend first, then its address and an example", async () => {
    const { child, output, client } = await start();
    expect(output.split("\n")[0]).toMatch(/^Backend: (ascend|emulator); /);
    expect(output).toContain("/v1/completions -d");
    expect(await client.text(ask)).toBe(answer);
    child.kill("SIGINT");
    expect(await child.exited).toBe(0);
  });

  test.each([1, 2])(
    "bun run serve exits with 0 on SIGTERM when a model sleeps at level %d",
    async (level) => {
      const { child, client } = await start();
      await client.post(`/sleep?level=${level}&model=${model}`);
      child.kill("SIGTERM");
      expect(await child.exited).toBe(0);
    },
  );

  test("bun run serve stops when its script runner is killed", async () => {
    const { child, client } = await start();
    child.kill("SIGKILL");
    await child.exited;
    const isUp = () =>
      client.fetch("/health").then(
        () => true,
        () => false,
      );
    while (await isUp()) await Bun.sleep(100);
  });

  test("bun run serve exits with 0 on SIGTERM after its completions and event streams end", async () => {
    const { child, client } = await start();
    const question = { ...ask, max_tokens: 240 };
    const whole = await client.text(question);
    const events = await client.fetch("/camem/events");
    let ended = false;
    const stream = client.stream(question).finally(() => {
      ended = true;
    });
    while (!ended && (await client.usage()).engines[model]?.status.requests.running !== 1) await Bun.sleep(1);
    child.kill("SIGTERM");
    expect((await stream).map(({ choices }) => choices[0]?.text).join("")).toBe(whole);
    await events.text();
    expect(await child.exited).toBe(0);
  });

  test.skipIf(!onEmulator)("bun run serve starts two models on a device with room for one", async () => {
    const { child, client } = await start({ CAMEM_EMULATOR_HBM: "100MiB" });
    expect([await client.state(model), await client.state(twin)]).toEqual(["asleep", "awake"]);
    for (const name of [model, twin, model]) expect(await client.text({ ...ask, model: name })).toBe(answer);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
  });

  test.skipIf(Bun.which("curl") === null)("curl commands of docs/server.md work unchanged", async () => {
    const page = await Bun.file(join(root, "docs/server.md")).text();
    const section = page.slice(page.indexOf("## The example server\n"));
    const lines = section.split("\n").filter((line) => line.startsWith("curl "));
    const { child, url } = await start();
    const outputs: string[] = [];
    for (const line of lines) {
      const here = line.replaceAll("localhost:8000", new URL(url).host);
      const run = Bun.spawn(["bash", "-c", here], { stdout: "pipe", stderr: "ignore" });
      outputs.push(await run.stdout.text());
      expect([line, await run.exited]).toEqual([line, 0]);
    }
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    const [before = "", free = "", sleep, moreFree = "", sleeping, woken, after = ""] = outputs;
    const textOf = (body: string) => (JSON.parse(body) as Completion).choices[0]?.text;
    expect(textOf(before)).toBe(expected(prompt, 60));
    expect(textOf(after)).toBe(expected(prompt, 60));
    expect([sleep, sleeping, woken]).toEqual([
      '{"status":"sleeping","level":1}',
      '{"is_sleeping":true}',
      '{"status":"awake","tags":null}',
    ]);
    const bytesOf = (line: string) => Number(line.trim().split(" ").at(-1));
    expect(granulesBetween(bytesOf(moreFree) - bytesOf(free), 68 * MiB)).toBe(0);
  });
});
