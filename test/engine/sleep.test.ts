/** An engine that knows nothing of camem sleeps and wakes, and its text stays what it is without the library. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { type BuiltEngine, buildEngine, EngineProcess, type Linkage, preloadLibrary } from "./engine.ts";

let engine: BuiltEngine;

beforeAll(() => {
  engine = buildEngine();
}, 120_000);
afterAll(() => rm(engine.folder, { recursive: true, force: true }));

const linkages: readonly Linkage[] = ["linked", "plug-in"];

/** Texts of an engine, with something done between them. */
async function texts(
  options: Parameters<typeof EngineProcess.start>[1],
  between: string[],
): Promise<string[]> {
  await using running = await EngineProcess.start(engine, options);
  const found = [await running.generate()];
  for (const command of between) {
    await running.ask(command);
    found.push(await running.generate());
  }
  found.push(await running.ask("all 3 prompt"));
  await running.ask("close");
  expect(await running.quit()).toBe(0);
  return found;
}

describe.each(linkages)("an engine with AscendCL %s", (linkage) => {
  test("the preload library changes nothing in an engine that never sleeps", async () => {
    const commands = ["generate 1 1 x", "generate 1 1 x"];
    const bare = await texts({ linkage }, commands);
    expect(await texts({ linkage, preload: preloadLibrary }, commands)).toEqual(bare);
  });

  test("an engine writes the same text when it sleeps between requests", async () => {
    const preload = engine.triggerLibrary;
    const asleep = await texts({ linkage, preload }, [
      "call camem_trigger_sleep",
      "call camem_trigger_sleep",
    ]);
    expect(asleep).toEqual(await texts({ linkage }, ["generate 7 0 x", "generate 7 0 x"]));
  });
});

test.each(["weights", "cache", "constants"])("one changed byte of the %s changes the text", async (what) => {
  const same = await texts({}, ["generate 7 0 x"]);
  expect(await texts({}, [`poke ${what} 40`])).not.toEqual(same);
});
