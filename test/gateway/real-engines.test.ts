/** The gateway with engines that allocate by themselves, in processes that share one emulated device. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import { dirname } from "node:path";
import { libraryPath } from "../../src/ffi/library-files.ts";
import { socketPath } from "../../src/remote/sockets.ts";
import { buildLinkedEngine, engineEnvironment } from "../engine/linked.ts";
import { freePort } from "../run/run-fixture.ts";
import { until } from "../support/fake-engine.ts";
import { GatewayFixture } from "./gateway-fixture.ts";

let engine = "";
const name = `gateway-${randomUUID()}`;

beforeAll(() => {
  engine = buildLinkedEngine();
}, 300_000);

afterAll(() => {
  rmSync(dirname(engine), { recursive: true });
  rmSync(`/dev/shm/camem-emulator-${process.getuid?.()}-${name}`, { force: true });
});

/** An engine takes 76 MiB, so only one of them is awake at a time. */
const entry = (options = "") => `
    command: ["${engine}", --port, "$\{PORT}", --weights, "3"]
    ready_path: /health${options}
    environment:
      LD_LIBRARY_PATH: ${engineEnvironment.LD_LIBRARY_PATH}
      CAMEM_EMULATOR_DEVICES: "2"
      CAMEM_EMULATOR_SHARED: ${name}
      CAMEM_EMULATOR_HBM: 120MiB`;

test("Gateway puts engines to sleep to make room for each other, and keeps their texts", async () => {
  await using fixture = await GatewayFixture.start(
    `engines:\n  one:${entry()}\n  two:${entry()}\nminimum_residency: 0`,
    { preloads: true },
  );
  const text = await fixture.complete("one");
  expect(text).toStartWith("200 ");
  expect(await fixture.complete("two")).toBe(text);
  expect(fixture.states).toEqual({ one: "asleep", two: "awake" });
  // The first is only asleep: it was not started again.
  const [second, alsoSecond] = [await fixture.complete("one"), await fixture.complete("two")];
  expect(second).toStartWith("200 ");
  expect(alsoSecond).toBe(second);
  expect(second).not.toBe(text);
  expect(fixture.reports.filter((line) => line.includes("started"))).toHaveLength(2);
  const usage = (await (await fixture.fetch("/camem/usage")).json()) as {
    devices: { freeBytes: number; totalBytes: number }[];
  };
  expect(usage.devices[0]?.totalBytes).toBe(120 * 2 ** 20);
}, 60_000);

test("Gateway starts another engine when one was killed while it held the device", async () => {
  await using fixture = await GatewayFixture.start(`engines:\n  one:${entry()}\n  two:${entry()}`, {
    preloads: true,
  });
  await fixture.complete("one");
  const pid = Number(/pid (\d+)/.exec(fixture.reports.join())?.[1]);
  process.kill(pid, "SIGKILL");
  await until(() => fixture.states["one"] === "asleep");
  expect(await fixture.complete("two")).toStartWith("200 ");
  expect(fixture.states).toEqual({ one: "asleep", two: "awake" });
}, 60_000);

test("Gateway starts an engine again that was killed while it slept", async () => {
  await using fixture = await GatewayFixture.start(`engines:\n  one:${entry("\n    idle: 50ms:1")}`, {
    preloads: true,
  });
  const text = await fixture.complete("one");
  await until(() => fixture.states["one"] === "asleep");
  const pid = Number(/pid (\d+)/.exec(fixture.reports.join())?.[1]);
  process.kill(pid, "SIGKILL");
  await until(() => fixture.reports.some((line) => line.includes("ended unexpectedly with SIGKILL")));
  await Bun.sleep(1_050);
  expect(await fixture.complete("one")).toBe(text);
}, 60_000);

test("Gateway wakes and puts to sleep an engine that somebody else has started", async () => {
  const port = freePort();
  const started = Bun.spawn([engine, "--port", String(port)], {
    env: { ...process.env, ...engineEnvironment, LD_PRELOAD: libraryPath("preload") },
    stdio: ["ignore", "ignore", "inherit"],
  });
  const upstream = `http://127.0.0.1:${port}`;
  while (!(await fetch(`${upstream}/health`).catch(() => undefined))?.ok) await Bun.sleep(10);
  await using fixture = await GatewayFixture.start(
    `engines: { one: { socket: "${socketPath(started.pid)}", upstream: "${upstream}", idle: 50ms:1 } }`,
    { preloads: true },
  );
  for (let round = 0; round < 2; round++) {
    expect(await fixture.complete("one")).toStartWith("200 ");
    await until(() => fixture.states["one"] === "asleep");
  }
  started.kill("SIGKILL");
  await started.exited;
  expect(await fixture.complete("one")).toStartWith("503 ");
}, 60_000);
