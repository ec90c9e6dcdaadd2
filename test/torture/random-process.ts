/**
 * The process under torture: random operations of one seed, with random faults. Each step is written to standard output before
 * it is made, so that the last line says what killed the process. A finding ends it with code 1.
 */

import { dlopen } from "bun:ffi";
import { mkdtempSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { CaMemAllocator } from "camem";
import { emulatorLibraryPath } from "../../src/ffi/index.ts";
import { Random } from "../fuzz/random.ts";
import { findCalls, noFaults, randomFaults } from "./faults.ts";
import { load, reload } from "./loads.ts";
import * as operations from "./operations.ts";
import { Finding, World } from "./world.ts";

/** Operations and how often they come. */
const choices: readonly (readonly [number, operations.Operation])[] = [
  [14, operations.malloc],
  [3, operations.mallocMany],
  [6, operations.nativeMalloc],
  [10, operations.free],
  [8, operations.write],
  [3, operations.read],
  [2, operations.readBackups],
  [16, operations.sleep],
  [12, operations.wake],
  [3, operations.prepare],
  [3, operations.markDirty],
  [3, operations.defineTag],
  [2, operations.query],
  [5, load],
  [3, reload],
  [2, operations.startThreads],
  [1, operations.useWorker],
  [2, operations.pause],
  [2, operations.reopen],
];

/** Long, since others may keep the processors busy. */
const hangMs = 60_000;

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    steps: { type: "string" },
    without: { type: "string" },
    mistake: { type: "string" },
  },
});
const seed = Number(values.seed);
const steps = Number(values.steps);
/** Steps to leave out, when the parent looks for the shortest run. */
const without = new Set((values.without ?? "").split(",").filter(Boolean).map(Number));

const say = (text: string) => writeSync(1, `${text}\n`);

function pick(random: Random): operations.Operation {
  let left = random.below(choices.reduce((total, [weight]) => total + weight, 0));
  for (const [weight, operation] of choices) {
    left -= weight;
    if (left < 0) return operation;
  }
  throw new RangeError("the weights do not add up");
}

async function withinTime(run: Promise<unknown>): Promise<void> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Finding(`nothing has come back for ${hangMs} ms`)), hangMs);
  await Promise.race([run, promise]).finally(() => clearTimeout(timer));
}

/** Operations of one step run one after the other under the same faults, or at once. */
async function step(world: World, random: Random, number: number): Promise<void> {
  const faults = world.threadsRun && random.oneIn(2) ? noFaults : randomFaults(random);
  const picked = Array.from({ length: random.pick([1, 1, 1, 2, 3]) }, () => pick(random));
  const atOnce = !picked.some(isAlone) && random.oneIn(2);
  const log = (text: string) => say(`${number}   ${text}`);
  say(
    `${number} ${faults.isEmpty ? "undisturbed" : faults}${atOnce && picked.length > 1 ? ", at once" : ""}`,
  );
  world.arm(faults);
  if (atOnce) await withinTime(Promise.all(picked.map(async (each) => each(world, random, log))));
  else for (const each of picked) await withinTime(Promise.resolve(each(world, random, log)));
  world.endFaults();
  say(`${number}   check`);
  const isThorough = random.oneIn(6);
  if (isThorough) {
    world.stopThreads();
    await withinTime(world.wakeEverything());
  }
  await withinTime(world.check(random, isThorough));
}

/** Sleeps beside these have outcomes that the world cannot know. */
const isAlone = (operation: operations.Operation) =>
  [operations.reopen, operations.useWorker, load, reload].includes(operation);

async function finish(world: World, random: Random): Promise<void> {
  say("the end");
  world.stopThreads();
  world.worker?.terminate();
  if (random.oneIn(6)) return loseDevice(world);
  await withinTime(world.wakeEverything());
  await withinTime(world.check(random, true));
  await withinTime(world.closeForGood());
  await withinTime(operateOnceMore());
}

/** An allocator that was closed can be opened again, and works. */
async function operateOnceMore(): Promise<void> {
  const allocator = CaMemAllocator.getInstance({});
  const buffer = allocator.malloc(1000, { tag: "weights" });
  buffer.fill(3);
  await allocator.sleep();
  await allocator.wakeUp();
  if (buffer.read().some((byte) => byte !== 3)) throw new Finding("the next allocator lost a byte");
  await allocator.close();
}

/** Somebody resets the device under the allocator: no content is left, and still every call is answered and `close()` ends. */
async function loseDevice(world: World): Promise<void> {
  say("somebody resets device 0");
  const { aclrtResetDeviceForce } = dlopen(emulatorLibraryPath, {
    aclrtResetDeviceForce: { args: ["i32"], returns: "i32" },
  }).symbols;
  aclrtResetDeviceForce(0);
  const refusals = [
    "DEVICE_LOST",
    "ACL_CALL_FAILED",
    "OUT_OF_DEVICE_MEMORY",
    "HOST_BUDGET_EXCEEDED",
  ] as const;
  await withinTime(world.attempt("sleep without a device", refusals, () => world.opened.sleep()));
  await withinTime(world.attempt("wake-up without a device", refusals, () => world.opened.wakeUp()));
  await withinTime(world.attempt("malloc without a device", refusals, () => world.opened.malloc(1)));
  const closing = world.attempt("close without a device", refusals, () => world.opened.close());
  await withinTime(closing);
  if ((await closing).error) await withinTime(world.attempt("close again", [], () => world.opened.close()));
}

/** What the driver must notice; so that a test can see that it does. */
const mistakes: Readonly<Record<string, (world: World) => void>> = {
  dies: () => process.kill(process.pid, "SIGABRT"),
  "loses a byte": ({ lives }) => {
    for (const { content } of lives) if (content) content[0] = ~(content[0] ?? 0);
  },
};
const mistakenStep = 20;

function makeMistake(world: World): void {
  if (values.mistake !== undefined) mistakes[values.mistake]?.(world);
}

async function run(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "camem-torture-"));
  const world = new World(folder);
  try {
    await operations.open(world, new Random(seed, 0), (text) => say(`0 ${text}`));
    findCalls();
    for (let number = 1; number <= steps; number++)
      if (!without.has(number)) {
        await step(world, new Random(seed, number), number);
        if (number === mistakenStep) makeMistake(world);
      }
    await finish(world, new Random(seed, steps + 1));
    say(`outcomes ${JSON.stringify([...world.outcomes])}`);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

try {
  await run();
  process.exit(0);
} catch (error) {
  const text =
    error instanceof Finding ? error.message : error instanceof Error ? error.stack : String(error);
  say(`finding ${text}`);
  process.exit(1);
}
