import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, CamemError } from "camem";
import { processesOf } from "../../src/process/family.ts";
import { EngineRun } from "../../src/run/engine-run.ts";
import { codeOf, failureOf, MiB } from "../support/device.ts";
import { until } from "../support/fake-engine.ts";
import { rejectionOf } from "../support/rejection.ts";
import { connectionTo, RunFixture } from "./run-fixture.ts";

const post = { method: "POST", body: "once" };

test("EngineRun holds a request until the program is ready", async () => {
  await using fixture = new RunFixture(["is-slow"], { readyPath: "/health" });
  expect((await fixture.fetch("/health")).status).toBe(503);
  expect(await (await fixture.fetch("/v1/completions", post)).text()).toBe("POST /v1/completions once");
  expect((await fixture.fetch("/health")).status).toBe(200);
});

test("EngineRun refuses a request whose deadline passes while the program starts", async () => {
  await using fixture = new RunFixture(["never-listens"], { holdDeadlineMs: 30 });
  const response = await fixture.fetch("/v1/completions", post);
  expect([response.status, response.headers.get("retry-after")]).toEqual([503, "5"]);
});

test("EngineRun sleeps when the engine is idle and wakes for a request", async () => {
  await using fixture = new RunFixture([], { idle: [{ after: 50, level: 1 }] });
  fixture.allocator.malloc(4 * MiB, { tag: "weights" });
  const { controller } = fixture.run;
  await until(() => controller.status.state === "asleep");
  expect(controller.status.reason).toBe("idle");
  expect((await fixture.fetch("/health")).status).toBe(200);
  expect((await fixture.fetch("/v1/completions", post)).status).toBe(200);
  await until(() => controller.status.state === "asleep");
  expect(await (await fixture.fetch("/metrics")).text()).toContain(
    'camem_requests_admitted_total{model_name="engine"} 1',
  );
});

test("EngineRun follows a sleep and a wake-up that somebody else has caused", async () => {
  await using fixture = new RunFixture([]);
  fixture.allocator.malloc(4 * MiB, { tag: "weights" });
  await fixture.untilReady();
  const { controller } = fixture.run;
  await until(() => fixture.reports.some((line) => line.includes("can sleep")));
  await fixture.allocator.sleep();
  await until(() => controller.status.state === "asleep");
  await fixture.allocator.wakeUp();
  await until(() => controller.status.state === "awake");
});

test.each([
  ["exits-7", 7],
  ["dies", 137],
])("EngineRun ends with the program's exit code when it %s", async (behaviour, exitCode) => {
  await using fixture = new RunFixture([behaviour]);
  expect(await fixture.run.ended).toBe(exitCode);
});

test("EngineRun passes signals on and ends when the program does", async () => {
  await using fixture = new RunFixture([]);
  await fixture.untilReady();
  fixture.run.signal("SIGTERM");
  expect(await fixture.run.ended).toBe(143);
  expect(fixture.reports).toContain("engine was ended by SIGTERM");
  await rejectionOf(fixture.fetch("/health"));
});

test("EngineRun passes a signal on that does not ask the program to end", async () => {
  await using fixture = new RunFixture([], { stopDeadlineMs: 0 });
  await fixture.untilReady();
  fixture.run.signal("SIGUSR1");
  expect(await fixture.run.ended).toBe(3);
  expect(fixture.reports.join()).not.toContain("killing it");
});

test("EngineRun kills a program that ignores SIGTERM", async () => {
  await using fixture = new RunFixture(["ignores-sigterm"], { stopDeadlineMs: 100 });
  await fixture.untilReady();
  fixture.run.signal("SIGTERM");
  expect(await fixture.run.ended).toBe(137);
  expect(fixture.reports).toContain("engine did not end within 100 ms; killing it");
});

test("EngineRun ends the processes that the program leaves behind", async () => {
  await using fixture = new RunFixture(["leaves-children"]);
  await fixture.untilReady();
  const { runId } = fixture.run;
  await until(() => processesOf(runId).length === 2);
  await fixture.fetch("/exit", post);
  expect(await fixture.run.ended).toBe(5);
  expect(processesOf(runId)).toEqual([]);
  expect(fixture.reports.join()).toContain("had left 1 processes behind");
});

test("EngineRun ends a program that never listens", async () => {
  await using fixture = new RunFixture(["never-listens"], { readyDeadlineMs: 300, readyPath: "/health" });
  const held = fixture.fetch("/v1/completions", post);
  expect(await fixture.run.ended).toBe(1);
  expect(fixture.reports.join()).toContain("was not ready within 300 ms: nothing listens there");
  expect((await held).status).toBe(503);
});

test("EngineRun ends and refuses requests when the program dies while it sleeps", async () => {
  await using fixture = new RunFixture([]);
  fixture.allocator.malloc(4 * MiB, { tag: "weights" });
  await fixture.untilReady();
  await until(() => fixture.reports.some((line) => line.includes("can sleep")));
  await fixture.run.controller.sleep();
  process.kill(fixture.run.pid, "SIGKILL");
  expect(await fixture.run.ended).toBe(137);
  expect(fixture.run.controller.disposition).toBe("refuse");
});

test("EngineRun starts nothing when its port is taken", async () => {
  using taken = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const listen = { hostname: "127.0.0.1", port: taken.port ?? 0 };
  const failure = await failureOf(() => new RunFixture([], { listen }));
  expect(failure.code).toBe("INVALID_CONFIG");
  expect(failure.message).toContain(
    `cannot listen on 127.0.0.1:${taken.port}: another program listens there`,
  );
});

test("EngineRun refuses options that do not fit each other", async () => {
  const upstream = new URL("http://127.0.0.1:8080");
  const listen = { hostname: "127.0.0.1", port: 8080 };
  const command = ["true"] as const;
  const idle = [{ after: 1, level: 1 }] as const;
  for (const options of [{ listen }, { upstream }, { idle }, { listen, upstream }])
    expect(
      await codeOf(
        () =>
          new EngineRun({ command, ...options }, { connect: async () => undefined, report: () => undefined }),
      ),
    ).toBe("INVALID_CONFIG");
});

test("EngineRun gives the program the library and the engine's settings", async () => {
  const folder = mkdtempSync(join(tmpdir(), "camem-run-"));
  const output = join(folder, "environment");
  await using _fixture = new RunFixture([], {
    command: ["sh", "-c", `env > ${output}; sleep 60`],
    name: "an-engine",
    onTouch: "hold",
    rules: ["written=host: immutable", "size>=1GiB: discard"],
  });
  await until(() => existsSync(output) && Bun.file(output).size > 0);
  await Bun.sleep(20);
  const environment = await Bun.file(output).text();
  expect(environment).toContain("CAMEM_ENGINE_NAME=an-engine\n");
  expect(environment).toContain("CAMEM_ON_TOUCH=hold\n");
  expect(environment).toContain("CAMEM_RULES=written=host: immutable\nsize>=1GiB: discard\n");
  expect(environment).toMatch(/LD_PRELOAD=.*libinert\.so/);
  rmSync(folder, { recursive: true });
});

test("EngineRun reports a program whose calls of AscendCL the library does not see", async () => {
  const library = join(import.meta.dir, `../../native/linux-${process.arch}/emulator/libascendcl.so`);
  const program = `require("bun:ffi").dlopen(${JSON.stringify(library)}, { aclFinalize: {} }); setTimeout(() => {}, 60_000);`;
  await using fixture = new RunFixture(
    [],
    { command: [process.execPath, "-e", program], listen: undefined, upstream: undefined },
    { connect: async () => undefined, unseenAfterMs: 1_000 },
  );
  await until(() => fixture.reports.length > 0);
  expect(fixture.reports).toEqual([
    expect.stringMatching(
      /^process \d+ has loaded AscendCL, but camem has seen no use of device memory so far/,
    ),
  ]);
});

test("EngineRun is ready once it has reached the memory of an engine that answers", async () => {
  let attempts = 0;
  const memory = CaMemAllocator.getInstance();
  const connect = async () => (++attempts > 2 ? connectionTo(memory) : undefined);
  await using fixture = new RunFixture([], {}, { connect });
  await fixture.untilReady();
  expect(attempts).toBe(3);
  expect((await fixture.fetch("/sleep", { method: "POST" })).status).toBe(200);
});

test.each([0, 20])(
  "EngineRun sleeps by itself again after the engine died in a sleep, noticed %i ms later, and came back",
  async (noticedMs) => {
    let connections = 0;
    const died = new CamemError("ENGINE_GONE", "the engine is gone");
    const connect = async () => {
      const connection = connectionTo(CaMemAllocator.getInstance());
      if (++connections > 1) return connection;
      const gone = Promise.withResolvers<unknown>();
      const sleep = async () => {
        setTimeout(() => gone.resolve(died), noticedMs);
        throw died;
      };
      return { ...connection, sleep, gone: gone.promise };
    };
    const idle = [{ after: "50ms", level: 1 as const }];
    await using fixture = new RunFixture([], { idle }, { connect });
    using _memory = fixture.allocator.malloc(MiB);
    await until(() => connections === 2);
    await until(() => fixture.run.controller.status.state === "asleep");
  },
);
