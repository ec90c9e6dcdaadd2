/** Engines of a gateway are killed at random moments: while they start, serve, fall asleep, sleep and wake. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import { dirname } from "node:path";
import { processesWith } from "../../src/process/family.ts";
import { buildLinkedEngine, engineEnvironment } from "../engine/linked.ts";
import { GatewayFixture } from "./gateway-fixture.ts";

const kills = Number(process.env["CAMEM_TEST_CYCLES"] ?? 6);
const name = `kills-${randomUUID()}`;
let engine = "";

beforeAll(() => {
  engine = buildLinkedEngine();
}, 300_000);

afterAll(() => {
  rmSync(dirname(engine), { recursive: true });
  rmSync(`/dev/shm/camem-emulator-${process.getuid?.()}-${name}`, { force: true });
});

const entry = () => `
    command: ["${engine}", --port, "$\{PORT}"]
    ready_path: /health
    idle: 20ms:1
    environment:
      LD_LIBRARY_PATH: ${engineEnvironment.LD_LIBRARY_PATH}
      CAMEM_EMULATOR_DEVICES: "2"
      CAMEM_EMULATOR_SHARED: ${name}
      CAMEM_EMULATOR_HBM: 120MiB`;

test("Gateway serves every engine again after engines were killed at any moment", async () => {
  const file = `minimum_residency: 0\nhold_deadline: 3s\nengines:\n  one:${entry()}\n  two:${entry()}`;
  const fixture = await GatewayFixture.start(file, { preloads: true });
  const engines = () => processesWith("CAMEM_EMULATOR_SHARED", name);
  let isOver = false;
  const outcomes = new Set<string>();
  const client = async (model: string) => {
    while (!isOver) outcomes.add((await fixture.complete(model).catch(() => "cut")).slice(0, 3));
  };
  const clients = ["one", "two", "one"].map(client);
  for (let count = 0; count < kills; count++) {
    await Bun.sleep(100 + Math.random() * 400);
    const pids = engines();
    const pid = pids[Math.floor(Math.random() * pids.length)];
    if (pid !== undefined) process.kill(pid, "SIGKILL");
  }
  isOver = true;
  await Promise.all(clients);
  // Bad gateway, or unavailable until it is started again; never a wrong answer or an internal error.
  expect([...outcomes].filter((outcome) => !["200", "502", "503", "499", "cut"].includes(outcome))).toEqual(
    [],
  );
  for (const model of ["one", "two"])
    while (!(await fixture.complete(model)).startsWith("200")) await Bun.sleep(200);
  await fixture[Symbol.asyncDispose]();
  expect(engines()).toEqual([]);
}, 120_000);
