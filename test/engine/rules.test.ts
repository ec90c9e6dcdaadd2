/** Rules decide by size and by how memory was written what a sleep does with it. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { type BuiltEngine, buildEngine, EngineProcess, preloadLibrary } from "./engine.ts";

let engine: BuiltEngine;

beforeAll(() => {
  engine = buildEngine();
}, 300_000);
afterAll(() => rm(engine.folder, { recursive: true, force: true }));

const mib = 1 << 20;

async function startProbe(...rules: string[]): Promise<EngineProcess> {
  const running = await EngineProcess.start(engine, {
    program: "probe",
    preload: preloadLibrary,
    environment: { CAMEM_RULES: rules.join("\n") },
  });
  for (const call of ["init . .", "set . . 0"]) expect(await running.ask(call)).toBe("0");
  return running;
}

/** Two allocations: `w` is written from the host, `k` is filled. */
async function allocateTwo(running: EngineProcess): Promise<void> {
  for (const call of [
    `malloc w . ${4 * mib} 0`,
    `malloc k . ${6 * mib} 0`,
    "write w . 7 70",
    `fill k . ${6 * mib} 5 0`,
  ])
    expect(await running.ask(call)).toBe("0");
}

test("a sleep discards memory that a rule discards, and offloads the rest", async () => {
  await using running = await startProbe("size>=5MiB and written=memset: discard");
  await allocateTwo(running);
  await using allocator = await running.connect();
  expect(allocator.segments().map(({ rule }) => rule)).toEqual([
    null,
    "size>=5MiB and written=memset: discard",
  ]);
  const report = await allocator.sleep();
  expect(report).toMatchObject({ discardedBytes: 8 * mib, offloadedBytes: 6 * mib });
  expect((await allocator.wakeUp()).remappedBytes).toBe(8 * mib);
  expect(await running.ask("read w . 7")).toBe("0 70");
});

test("a rule no longer applies once memory is written in another way", async () => {
  await using running = await startProbe("written=memset: discard");
  await allocateTwo(running);
  expect(await running.ask("write k . 9 90")).toBe("0");
  await using allocator = await running.connect();
  expect(await allocator.sleep()).toMatchObject({ discardedBytes: 0 });
  expect(await running.ask("read k . 9")).toBe("0 90");
});

test("immutable memory is copied once, and again after the program has written to it", async () => {
  await using running = await startProbe("written=host: immutable");
  await allocateTwo(running);
  await using allocator = await running.connect();
  const copied: number[] = [];
  const cycle = async () => {
    copied.push((await allocator.sleep({ tags: ["immutable"] })).copiedBytes);
    await allocator.wakeUp();
  };
  await cycle();
  await cycle();
  expect(await running.ask("write w . 8 80")).toBe("0");
  await cycle();
  await cycle();
  expect(copied).toEqual([6 * mib, 0, 6 * mib, 0]);
  expect(await running.ask("read w . 7")).toBe("0 70");
  expect(await running.ask("read w . 8")).toBe("0 80");
});

test("a rule that keeps by size leaves the allocation to AscendCL", async () => {
  await using running = await startProbe("size>=5MiB: keep");
  await allocateTwo(running);
  expect(await running.ask("ipc_key k . 100")).toBe("0");
  expect(await running.ask("ipc_key w . 100")).toBe("107000");
  await using allocator = await running.connect();
  expect(allocator.segments().filter(({ pinned }) => pinned === "rule")).toHaveLength(1);
  expect(await allocator.sleep()).toMatchObject({ freedBytes: 6 * mib });
  expect(await running.ask("free k .")).toBe("0");
});

test("a line that is no rule matches nothing and leaves the others as they are", async () => {
  await using running = await startProbe("nonsense", "written=memset: discard");
  await allocateTwo(running);
  await using allocator = await running.connect();
  expect(await allocator.sleep()).toMatchObject({ discardedBytes: 8 * mib });
});

test("the library reports on standard error what it cannot parse in its variables, once", async () => {
  const environment = { CAMEM_RULES: "size>=1: lose\nwritten=memset: discard", CAMEM_ON_TOUCH: "wkae" };
  await using running = await EngineProcess.start(engine, {
    program: "probe",
    preload: preloadLibrary,
    environment,
  });
  for (const call of ["init . .", "set . . 0"]) expect(await running.ask(call)).toBe("0");
  await allocateTwo(running);
  running.process.kill();
  const errors = await running.process.stderr.text();
  expect(errors.trim().split("\n")).toEqual([
    'camem: CAMEM_RULES has "size>=1: lose": it is no rule and is ignored; see docs/engines.md',
    'camem: CAMEM_ON_TOUCH has "wkae": it must be wake, hold or fail; wake is used',
  ]);
});
