/** An engine that knows nothing of camem is put to sleep from another process. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { RemoteAllocator, type RemoteEvent } from "camem";
import { type BuiltEngine, buildEngine, EngineProcess, preloadLibrary } from "../engine/engine.ts";
import { fuzzSocket } from "../socket-fuzz/driver.ts";

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

/** Resolves with the next event of a type. */
function nextEvent(allocator: RemoteAllocator, type: RemoteEvent["type"]): Promise<RemoteEvent> {
  const { promise, resolve } = Promise.withResolvers<RemoteEvent>();
  allocator.subscribe((event) => event.type === type && resolve(event));
  return promise;
}

test("a request to a sleeping engine waits, and an event says so until a controller wakes it", async () => {
  const { running, path } = await start({ CAMEM_ON_TOUCH: "hold" });
  await using _ = running;
  await running.generate();
  await using allocator = await RemoteAllocator.connect({ path });
  await allocator.sleep();
  const touched = nextEvent(allocator, "touched");
  const text = running.generate();
  expect(await touched).toMatchObject({ status: { gate: "asleep", onTouch: "hold" } });
  expect(allocator.status().waitingCalls).toBeGreaterThan(0);
  await allocator.wakeUp();
  expect(await text).toMatch(/^[a-z ]+$/);
  expect(allocator.status().waitingCalls).toBe(0);
});

test("an engine wakes by itself when no controller is there, and an event says so", async () => {
  const { running, path } = await start();
  await using _ = running;
  await running.generate();
  await using allocator = await RemoteAllocator.connect({ path });
  await allocator.sleep();
  const woke = nextEvent(allocator, "woke");
  await running.generate();
  expect(await woke).toMatchObject({ status: { ownWakeUps: 1, ownWakeUpFailure: null } });
  expect(allocator.isSleeping).toBe(false);
});

test("an engine that ends leaves no socket behind, awake or asleep", async () => {
  for (const isAsleep of [false, true]) {
    const { running, path } = await start();
    await using _ = running;
    await running.generate();
    await using allocator = await RemoteAllocator.connect({ path });
    if (isAsleep) await allocator.sleep();
    const gone = nextEvent(allocator, "gone");
    await running.ask("close");
    await running.quit();
    await gone;
    expect(existsSync(path)).toBe(false);
  }
});

test("an engine under the library answers or closes the connection, whatever is sent to its socket", async () => {
  const { replies, grownFiles } = await fuzzSocket(3, 1_500, async () => {
    const { running, path } = await start();
    const bare = await EngineProcess.start(engine);
    return {
      pid: running.process.pid,
      path,
      async verify() {
        expect(await running.ask("all 3 prompt")).toBe(await bare.ask("all 3 prompt"));
      },
      async [Symbol.asyncDispose]() {
        await running[Symbol.asyncDispose]();
        await bare[Symbol.asyncDispose]();
      },
    };
  });
  expect(replies).toBeGreaterThan(500);
  expect(grownFiles).toBe(0);
}, 60_000);
