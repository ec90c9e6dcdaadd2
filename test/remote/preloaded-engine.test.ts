/** An engine that knows nothing of camem is put to sleep from another process. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { RemoteAllocator } from "camem";
import { type BuiltEngine, buildEngine, EngineProcess, preloadLibrary } from "../engine/engine.ts";

const buildTimeoutMs = 300_000;

let engine: BuiltEngine;
let folder: string;

beforeAll(() => {
  engine = buildEngine();
  folder = mkdtempSync(join(tmpdir(), "camem-sockets-"));
}, buildTimeoutMs);
afterAll(async () => {
  await rm(engine.folder, { recursive: true, force: true });
  await rm(folder, { recursive: true, force: true });
});

async function start(environment: Readonly<Record<string, string>> = {}) {
  const running = await EngineProcess.start(engine, {
    preload: preloadLibrary,
    environment: { CAMEM_SOCKET_DIR: folder, ...environment },
  });
  return { running, path: join(folder, `${running.process.pid}.sock`) };
}

test("an engine writes the same text after a sleep and a wake-up from another process", async () => {
  const { running, path } = await start();
  await using bare = await EngineProcess.start(engine);
  await using _ = running;
  await running.generate();
  await using allocator = await RemoteAllocator.connect({ path });
  const { freedBytes } = await allocator.sleep();
  expect(freedBytes).toBe(allocator.getCurrentUsage());
  expect(allocator.status().gate).toBe("asleep");
  await allocator.wakeUp();
  expect(allocator.status().gate).toBe("open");
  await bare.generate();
  expect(await running.generate()).toBe(await bare.generate());
});
