/** Eight threads of an engine work without pause while it is put to sleep again and again. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { type BuiltEngine, buildEngine, EngineProcess, preloadLibrary } from "./engine.ts";

let engine: BuiltEngine;

beforeAll(() => {
  engine = buildEngine();
}, 300_000);
afterAll(() => rm(engine.folder, { recursive: true, force: true }));

/** `CAMEM_TEST_CYCLES=500` sleeps that often. */
const cycles = Number(process.env["CAMEM_TEST_CYCLES"] ?? 15);
const tokensAtOnce = 20;

test("eight threads write the same text while the engine sleeps and wakes", async () => {
  const options = { arguments: ["--weights", "1", "--cache", "1"] };
  await using sleeper = await EngineProcess.start(engine, { ...options, preload: preloadLibrary });
  await using bare = await EngineProcess.start(engine, options);
  await using allocator = await sleeper.connect();
  const free = allocator.memGetInfo(1).freeBytes;
  for (let slept = 0; slept < cycles; ) {
    let isDone = false;
    const texts = sleeper.ask(`all ${tokensAtOnce} prompt`).finally(() => {
      isDone = true;
    });
    while (!isDone) {
      await allocator.sleep();
      slept++;
      // The threads wake it, or it stays asleep until they go on.
      if (slept % 3 === 0) await allocator.wakeUp();
    }
    expect(await texts).toBe(await bare.ask(`all ${tokensAtOnce} prompt`));
  }
  await allocator.wakeUp();
  expect(allocator.memGetInfo(1).freeBytes).toBe(free);
  expect(allocator.status()).toMatchObject({ gate: "open", waitingCalls: 0, ownWakeUpFailure: null });
}, 3_600_000);
