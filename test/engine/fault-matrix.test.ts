/**
 * Every AscendCL call that the library makes fails once, and calls fail in pairs, while the engine runs. The engine
 * never notices: its text is that of an engine without the library, and no device memory is lost.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { CamemError, type RemoteAllocator } from "camem";
import { type BuiltEngine, buildEngine, EngineProcess, preloadLibrary } from "./engine.ts";

let engine: BuiltEngine;

beforeAll(() => {
  engine = buildEngine();
}, 300_000);
afterAll(() => rm(engine.folder, { recursive: true, force: true }));

/** `CAMEM_TEST_FAULTS=all` tries every pair instead of some. */
const everyPair = process.env["CAMEM_TEST_FAULTS"] === "all";
const pairStride = everyPair ? 1 : 41;

const sizes = ["--weights", "1", "--cache", "1", "--slots", "1"];

/** An engine under the library beside one without it. Each gets the same requests. */
class Twins implements AsyncDisposable {
  readonly sleeper: EngineProcess;
  readonly bare: EngineProcess;
  readonly allocator: RemoteAllocator;

  private constructor(sleeper: EngineProcess, bare: EngineProcess, allocator: RemoteAllocator) {
    this.sleeper = sleeper;
    this.bare = bare;
    this.allocator = allocator;
  }

  static async start(): Promise<Twins> {
    const options = { arguments: sizes };
    const sleeper = await EngineProcess.start(engine, { ...options, preload: preloadLibrary });
    return new Twins(sleeper, await EngineProcess.start(engine, options), await sleeper.connect());
  }

  /** Both write the same text; the sleeper wakes by itself where it is asleep. */
  async expectSameText(what: string): Promise<void> {
    const texts = await Promise.all([this.sleeper.generate(3), this.bare.generate(3)]);
    expect({ what, text: texts[0] }).toEqual({ what, text: texts[1] });
  }

  /** Calls of AscendCL's that `work` makes. */
  async countCalls(work: () => Promise<unknown>, name = "*"): Promise<number> {
    await this.sleeper.ask("faults");
    await work();
    return Number(await this.sleeper.ask(`count ${name}`));
  }

  /** Does `work` while `faults` are set. It may fail, with a typed error. */
  async tryWith(faults: string, work: () => Promise<unknown>): Promise<void> {
    await this.sleeper.ask(`faults ${faults}`);
    try {
      await work();
    } catch (error) {
      expect({ faults, error }).toEqual({ faults, error: expect.any(CamemError) });
    }
    await this.sleeper.ask("faults");
  }

  /** Device memory that is free while everything is awake. */
  async freeBytes(): Promise<number[]> {
    await this.allocator.wakeUp();
    return [0, 1].map((device) => this.allocator.memGetInfo(device).freeBytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.allocator.close();
    await Promise.all([this.sleeper, this.bare].map((twin) => twin[Symbol.asyncDispose]()));
  }
}

interface Phase {
  /** Brings the engine to where the phase begins. */
  before(twins: Twins): Promise<unknown>;
  work(twins: Twins): Promise<unknown>;
}

const phases: Record<string, Phase> = {
  sleep: {
    before: async () => undefined,
    work: ({ allocator }) => allocator.sleep(),
  },
  "wake-up": {
    before: ({ allocator }) => allocator.sleep(),
    work: ({ allocator }) => allocator.wakeUp(),
  },
};

const codes = { refused: 507899, noMemory: 207001 };

async function expectHarmless(twins: Twins, phase: Phase, faults: string): Promise<void> {
  await phase.before(twins);
  await twins.tryWith(faults, () => phase.work(twins));
  await twins.expectSameText(faults);
}

describe.each(Object.entries(phases))("%s", (_, phase) => {
  test("is harmless to the engine when any one of its calls, or copies, fails", async () => {
    await using twins = await Twins.start();
    await twins.expectSameText("warm-up");
    const free = await twins.freeBytes();
    await phase.before(twins);
    const calls = await twins.countCalls(() => phase.work(twins));
    expect(calls).toBeGreaterThan(20);
    for (const code of Object.values(codes)) {
      for (let call = 1; call <= calls; call++) await expectHarmless(twins, phase, `*:${call}=${code}`);
    }
    for (const copy of [1, 2, 5, 9])
      await expectHarmless(twins, phase, `aclrtMemcpyAsync.task:${copy}=507013`);
    expect(await twins.freeBytes()).toEqual(free);
  }, 120_000);

  test(
    "is harmless to the engine when two of its calls fail",
    async () => {
      await using twins = await Twins.start();
      await twins.expectSameText("warm-up");
      const free = await twins.freeBytes();
      await phase.before(twins);
      const calls = await twins.countCalls(() => phase.work(twins));
      const pairs = Array.from({ length: calls * calls }, (_, index) => [
        1 + (index % calls),
        1 + Math.floor(index / calls),
      ])
        .filter(([first = 0, second = 0]) => first < second)
        .filter((_, index) => index % pairStride === 0);
      for (const [first, second] of pairs)
        await expectHarmless(twins, phase, `*:${first}=${codes.refused},*:${second}=${codes.refused}`);
      expect(await twins.freeBytes()).toEqual(free);
    },
    everyPair ? 3_600_000 : 120_000,
  );
});

/** Calls that the library makes for an engine's, and that this engine does not make itself at that time. */
const ownCalls = {
  open: ["aclrtGetDevice", "aclrtGetCurrentContext", "aclrtSetCurrentContext", "aclrtCreateContext"].concat(
    "aclrtGetDeviceCount",
    "aclrtMallocPhysical",
    "aclrtMapMem",
  ),
  touch: [
    "aclrtGetCurrentContext",
    "aclrtSetCurrentContext",
    "aclrtCreateStream",
    "aclrtSynchronizeDeviceWithTimeout",
  ],
  close: [
    "aclrtGetCurrentContext",
    "aclrtSynchronizeDeviceWithTimeout",
    "aclrtSetCurrentContext",
    "aclrtDestroyContext",
  ],
};

/** The first call, the last, and some between. */
const some = (count: number) =>
  [...new Set([1, 2, 3, Math.ceil(count / 2), count - 1, count])].filter((n) => n > 0 && n <= count);

test("an engine opens and closes as ever when any one call of the library fails", async () => {
  await using twins = await Twins.start();
  const reopen = async (faults: { open?: string; close?: string }) => {
    await twins.sleeper.ask(`faults ${faults.close ?? ""}`);
    await twins.sleeper.ask("close");
    await twins.sleeper.ask(`faults ${faults.open ?? ""}`);
    await twins.sleeper.ask("open");
    await twins.sleeper.ask("faults");
    await twins.bare.ask("close");
    await twins.bare.ask("open");
    await twins.expectSameText(JSON.stringify(faults));
  };
  for (const phase of ["open", "close"] as const) {
    for (const name of ownCalls[phase]) {
      const other = phase === "open" ? "close" : "open";
      if (phase === "open") await twins.sleeper.ask("close");
      const count = await twins.countCalls(() => twins.sleeper.ask(phase), name);
      if (phase === "close") await twins.sleeper.ask(other);
      await twins.bare.ask("close");
      await twins.bare.ask("open");
      for (const call of some(count)) await reopen({ [phase]: `${name}:${call}=507899` });
    }
  }
  await using allocator = await twins.sleeper.connect();
  await allocator.sleep();
  await twins.expectSameText("after all");
}, 120_000);

test("a request that wakes the engine is answered when any one call of the wake-up fails", async () => {
  await using twins = await Twins.start();
  await twins.expectSameText("warm-up");
  for (const name of ownCalls.touch) {
    await twins.allocator.sleep();
    const count = await twins.countCalls(() => twins.expectSameText(name), name);
    for (const call of some(count)) {
      await twins.allocator.sleep();
      await twins.tryWith(`${name}:${call}=507899`, () => twins.expectSameText(`${name}:${call}`));
    }
  }
}, 120_000);
