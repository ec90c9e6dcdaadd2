/** An engine that knows nothing of camem sleeps and wakes, and its text stays what it is without the library. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { type BuiltEngine, buildEngine, EngineProcess, type Linkage, preloadLibrary } from "./engine.ts";

let engine: BuiltEngine;

beforeAll(() => {
  engine = buildEngine();
}, 300_000);
afterAll(() => rm(engine.folder, { recursive: true, force: true }));

const linkages: readonly Linkage[] = ["linked", "plug-in"];

type Options = Parameters<typeof EngineProcess.start>[1];

/** The texts of one conversation, with something done before each part. */
async function texts(
  options: Options,
  between: (running: EngineProcess) => Promise<unknown> = async () => undefined,
): Promise<string[]> {
  await using running = await EngineProcess.start(engine, options);
  const found: string[] = [];
  for (const command of ["generate 0 8 first", "all 3 second", "generate 1 8 third"]) {
    await between(running);
    found.push(await running.ask(command));
  }
  await between(running);
  await running.ask("close");
  expect(await running.quit()).toBe(0);
  return found;
}

/** Everything sleeps, and frees the device memory that the library holds. */
async function sleep(running: EngineProcess): Promise<void> {
  await using allocator = await running.connect();
  const before = allocator.memGetInfo().freeBytes;
  const { freedBytes } = await allocator.sleep();
  expect(allocator.status().gate).toBe("asleep");
  expect(allocator.memGetInfo().freeBytes).toBeGreaterThan(before + freedBytes / 4);
}

describe.each(linkages)("an engine with AscendCL %s", (program) => {
  test("the preload library changes nothing in an engine that never sleeps", async () => {
    expect(await texts({ program, preload: preloadLibrary })).toEqual(await texts({ program }));
  });

  test("an engine that sleeps before each request wakes by itself and writes the same text", async () => {
    const asleep = await texts({ program, preload: preloadLibrary }, sleep);
    expect(asleep).toEqual(await texts({ program }));
  });

  test("an engine that a controller wakes writes the same text", async () => {
    const woken = await texts({ program, preload: preloadLibrary }, async (running) => {
      await using allocator = await running.connect();
      await allocator.sleep();
      await allocator.wakeUp();
      expect(allocator.status()).toMatchObject({ gate: "open", touches: 0 });
    });
    expect(woken).toEqual(await texts({ program }));
  });
});

test.each(["weights", "cache", "constants"])("one changed byte of the %s changes the text", async (what) => {
  expect(await texts({}, (running) => running.ask(`poke ${what} 40`))).not.toEqual(await texts({}));
});
