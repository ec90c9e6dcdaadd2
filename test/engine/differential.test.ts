/**
 * One program, the same calls, three times: without the library; under it; and under it with everything asleep
 * before each call. Every return code and every answer is AscendCL's.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { type BuiltEngine, buildEngine, EngineProcess, preloadLibrary } from "./engine.ts";
import { randomCalls } from "./random-calls.ts";

let engine: BuiltEngine;

beforeAll(() => {
  engine = buildEngine();
}, 300_000);
afterAll(() => rm(engine.folder, { recursive: true, force: true }));

/** Each call with its answer. */
async function answers(
  calls: readonly string[],
  preload?: string,
  before: (running: EngineProcess) => Promise<unknown> = async () => undefined,
): Promise<string[]> {
  const options = { program: "probe", ...(preload === undefined ? {} : { preload }) } as const;
  await using running = await EngineProcess.start(engine, options);
  const found: string[] = [];
  for (const call of calls) {
    await before(running);
    found.push(`${call} -> ${await running.ask(call)}`);
  }
  expect(await running.quit()).toBe(0);
  return found;
}

/** Puts to sleep whatever is awake, and returns how much that was. Before the first allocation nothing listens. */
async function sleepIfServed(running: EngineProcess): Promise<number> {
  try {
    await using allocator = await running.connect();
    return (await allocator.sleep()).freedBytes;
  } catch (error) {
    const code = (error as { code?: string }).code;
    if (code !== "ENGINE_NOT_FOUND" && code !== "CLOSED") throw error;
    return 0;
  }
}

async function expectSameAnswers(calls: readonly string[]): Promise<void> {
  const bare = await answers(calls);
  expect(await answers(calls, preloadLibrary)).toEqual(bare);
  let freedBytes = 0;
  const asleep = await answers(calls, preloadLibrary, async (running) => {
    freedBytes += await sleepIfServed(running);
  });
  expect(asleep).toEqual(bare);
  expect(freedBytes).toBeGreaterThan(0);
}

const mib = 1 << 20;
const begin = ["init . .", "set . . 0"];

const scripts: Record<string, readonly string[]> = {
  "allocations of every kind": [
    ...begin,
    ...["malloc", "align32", "cached"].flatMap((call) =>
      [0, 1, 3, 6, 0x1000, 0x100000].flatMap((policy) => [
        `${call} a . ${3 * mib} ${policy}`,
        `fill a . ${3 * mib} 5 0`,
        "read a . 100",
        "attributes a . 4096",
        "free a .",
        "free a .",
      ]),
    ),
    "malloc a . 0 0",
    `malloc a . ${2 ** 60} 0`,
    "free z .",
  ],
  "small allocations": [
    ...begin,
    ..."abcdefgh"
      .split("")
      .flatMap((name, index) => [
        `malloc ${name} . ${64 << index} 0`,
        `fill ${name} . ${64 << index} ${index} 0`,
        `write ${name} . ${(64 << index) - 1} ${100 + index}`,
      ]),
    "free c .",
    "malloc i . 200 0",
    "fill i . 200 77 0",
    ..."abdefgh"
      .split("")
      .flatMap((name, index) => [`read ${name} . 0`, `read ${name} . 63`, `attributes ${name} . ${index}`]),
    ..."abdefghi".split("").map((name) => `free ${name} .`),
    "free a .",
  ],
  "a captured graph": [
    ...begin,
    `malloc a . ${3 * mib} 0`,
    "stream s .",
    "end_capture s m",
    "capture s . 1",
    "capture s . 1",
    "free a .",
    "end_capture s m",
    "end_capture s m",
    `malloc a . ${3 * mib} 0`,
    "fill a . 9 9 0",
    "read a . 8",
  ],
  "an operator": [...begin, `malloc a . ${3 * mib} 0`, "operator a . 33", "read a . 0", "free a ."],
  "calls without a context": [
    "malloc a . 100 0",
    "free a .",
    "set . . 9",
    "set . . 0",
    "malloc a . 100 0",
    "reset . . 0",
    "malloc b . 100 0",
    "fill a . 10 1 0",
    "free a .",
    "reset . . 0",
    "device . .",
  ],
  "holds on devices": [
    ...begin,
    "set . . 0",
    "set . . 1",
    `malloc a . ${3 * mib} 0`,
    "set . . 0",
    `malloc b . ${3 * mib} 0`,
    "fill b . 1000 9 0",
    "reset . . 0",
    "reset . . 0",
    "set . . 1",
    "set . . 0",
    "read b . 5",
    "reset_force . . 0",
    "reset . . 0",
    "free b .",
    "set . . 1",
    "fill a . 1000 3 0",
    "read a . 999",
    "reset_force . . 1",
    "reset_force . . 1",
    "free a .",
    "set . . 0",
    `malloc b . ${3 * mib} 0`,
    "fill b . 1000 4 0",
    "read b . 5",
    "free b .",
    "finalize . .",
    "finalize . .",
  ],
  contexts: [
    ...begin,
    "current p .",
    "context q . 0",
    "current r .",
    "same q r",
    `malloc a . ${3 * mib} 0`,
    "fill a . 100 6 0",
    "destroy_context q .",
    "destroy_context q .",
    "device . .",
    "set . . 0",
    "current r .",
    "same p r",
    "read a . 99",
    "free a .",
    "reset . . 0",
    "reset . . 0",
    "reset . . 0",
  ],
  finalisation: [
    ...begin,
    "init . .",
    `malloc a . ${3 * mib} 0`,
    "finalize_reference . .",
    "fill a . 10 1 0",
    "reset . . 0",
    "finalize_reference . .",
    "finalize_reference . .",
    "finalize . .",
    ...begin,
    `malloc a . ${3 * mib} 0`,
    "fill a . 10 1 0",
    "read a . 9",
    "free a .",
    "reset . . 0",
    "finalize . .",
  ],
  "the program's own mappings": [
    ...begin,
    `reserve v . ${16 * mib}`,
    `physical h . ${2 * mib} 0`,
    "properties h .",
    `map v h 0 ${2 * mib} 0`,
    `access v . 0 ${2 * mib} 0`,
    `access v . 0 ${4 * mib} 0`,
    `fill v . ${2 * mib} 8 0`,
    "properties h .",
    "attributes v . 100",
    "range v . 100",
    "get_access v . 0 0",
    "release v .",
    `map v h 0 ${2 * mib} 0`,
    "unmap v . 0",
    "unmap v . 0",
    `map v h ${4 * mib} ${2 * mib} 0`,
    `read v . ${4 * mib}`,
    `unmap v . ${4 * mib}`,
    "free_physical h .",
    "free_physical h .",
    "properties h .",
    `map v h 0 ${2 * mib} 0`,
    "release v .",
    "release v .",
  ],
  "handles that outlive their mapping": [
    ...begin,
    `reserve v . ${16 * mib}`,
    `physical h . ${4 * mib} 0`,
    `map v h 0 ${4 * mib} 0`,
    `fill v . ${4 * mib} 21 0`,
    "retain v g",
    "free_physical h .",
    "unmap v . 0",
    `map v g ${8 * mib} ${4 * mib} 0`,
    `read v . ${9 * mib}`,
    "free_physical g .",
    "free_physical g .",
    `read v . ${8 * mib}`,
    `unmap v . ${8 * mib}`,
    "properties g .",
    "release v .",
  ],
  "memory that is mapped twice and in part": [
    ...begin,
    `reserve v . ${16 * mib}`,
    `physical h . ${4 * mib} 0`,
    `map v h 0 ${4 * mib} 0`,
    `fill v . ${4 * mib} 3 0`,
    `map v h ${4 * mib} ${2 * mib} 0`,
    `write v . ${4 * mib} 44`,
    "read v . 0",
    "unmap v . 0",
    `read v . ${4 * mib}`,
    `map v h 0 ${6 * mib} 0`,
    `map v h 0 ${2 * mib} 2097152`,
    `unmap v . ${4 * mib}`,
    `map v h 0 ${4 * mib} 0`,
    "read v . 0",
    "unmap v . 0",
    "free_physical h .",
    "release v .",
  ],
  "exported memory": [
    ...begin,
    `reserve v . ${4 * mib}`,
    `physical h . ${2 * mib} 0`,
    `map v h 0 ${2 * mib} 0`,
    `fill v . ${2 * mib} 7 0`,
    "export h . 1",
    "export h . 1",
    "read v . 5",
    "unmap v . 0",
    "free_physical h .",
    "release v .",
    `physical h . ${2 * mib} 0`,
    "export h . 9",
    "free_physical h .",
  ],
  "allocations taken for mappings": [
    ...begin,
    `malloc a . ${3 * mib} 0`,
    "malloc b . 100 0",
    "unmap a . 0",
    "unmap b . 0",
    "release a .",
    "release b .",
    `access a . 0 ${4 * mib} 0`,
    "get_access a . 0 0",
    "retain a h",
    `physical h . ${2 * mib} 0`,
    `map a h 0 ${2 * mib} 0`,
    "free_physical h .",
    "fill a . 10 1 0",
    "read a . 9",
    "free a .",
    "free b .",
  ],
};

describe.each(Object.entries(scripts))("%s", (_, calls) => {
  test(
    "have AscendCL's codes and answers under the library, awake and asleep",
    () => expectSameAnswers(calls),
    60_000,
  );
});

/** `CAMEM_TEST_SEEDS=100` runs that many. */
const seeds = Array.from({ length: Number(process.env["CAMEM_TEST_SEEDS"] ?? 4) }, (_, index) => index + 1);

test.each(seeds)(
  "random calls have AscendCL's codes and answers, with seed %d",
  async (seed) => {
    await expectSameAnswers(randomCalls(seed, 120));
  },
  60_000,
);
