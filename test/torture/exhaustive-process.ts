/**
 * Every allocation and every thread of every verb fails, once and from then on, and so do the calls of a context, with memory
 * awake and asleep. Afterwards everything that `World.check` knows is true, and everything wakes up.
 */

import { mkdtempSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { CaMemAllocator, loadSafetensors, type SleepOptions } from "camem";
import { Random } from "../fuzz/random.ts";
import { checkpointOf } from "../support/checkpoint.ts";
import { callCount, MiB } from "../support/device.ts";
import { allocationFault, callFault, Faults, findCalls, libraryCalls, threadFault } from "./faults.ts";
import { noteDiscarded } from "./operations.ts";
import { Finding, type Live, World } from "./world.ts";

const say = (text: string) => writeSync(1, `${text}\n`);

const folder = mkdtempSync(join(tmpdir(), "camem-torture-"));
const world = new World(folder);
const random = new Random(1, 1);
const checkpointPath = join(folder, "checkpoint.safetensors");

const options = { poolSegment: 2 * MiB, retain: 8 * MiB };

/** `free` frees the last. */
const recipe = [
  { tag: "sleep_persistent", device: 1, sizeBytes: 100 },
  { tag: "kv_cache", device: 0, sizeBytes: 100 },
  { tag: "buffers", device: 0, sizeBytes: 5000 },
  { tag: "buffers", device: 1, sizeBytes: 5000 },
  { tag: "weights", device: 1, sizeBytes: 5000 },
  { tag: "weights", device: 0, sizeBytes: 2 * MiB + 1 },
] as const;

const sleep = async (options: SleepOptions) => {
  const { error } = await world.attempt("sleep", [], () => world.opened.sleep(options));
  if (error === undefined || error.transitionComplete) noteDiscarded(world, options);
};

function adopt(live: Omit<Live, "content">): void {
  world.lives.push({ ...live, content: undefined });
}

async function allocate(tag: string, device: number, sizeBytes: number): Promise<void> {
  const run = () => world.opened.malloc(sizeBytes, { tag, device });
  const { value: buffer } = await world.attempt("malloc", [], run);
  if (buffer) adopt({ address: buffer.ptr, sizeBytes, tag, device, buffer });
}

async function load(backing: "host" | "file"): Promise<void> {
  const { value: tensors } = await world.attempt("load", [], () =>
    loadSafetensors(checkpointPath, { allocator: world.opened, backing }),
  );
  for (const { buffer } of tensors?.values() ?? []) {
    const { ptr: address, sizeBytes, tag, device } = buffer;
    adopt({ address, sizeBytes, tag, device, buffer });
  }
}

const verbs: Readonly<Record<string, () => Promise<void> | void>> = {
  malloc: () => allocate("weights", 1, 1000),
  "pool malloc": async () => {
    const run = () => world.opened.memoryPool("buffers", { device: 1 }).malloc(3 * MiB);
    const { value: buffer } = await world.attempt("pool malloc", [], run);
    if (buffer) adopt({ address: buffer.ptr, sizeBytes: 3 * MiB, tag: "buffers", device: 1, buffer });
  },
  my_malloc: () => {
    const address = world.pluggable.malloc(1000, 1);
    if (address !== 0) adopt({ address, sizeBytes: 1000, tag: "default", device: 1, buffer: undefined });
  },
  free: async () => {
    const live = world.lives.at(-1);
    if (live) await world.free(live);
  },
  load: () => load("host"),
  "load backed by its file": () => load("file"),
  "sleep at level 1": () => sleep({ level: 1 }),
  "sleep at level 2": () => sleep({ level: 2 }),
  "wake-up": async () => void (await world.attempt("wake-up", [], () => world.opened.wakeUp())),
  prepare: async () => void (await world.attempt("prepare", [], () => world.opened.prepare())),
  defineTag: async () => {
    const policy = { immutable: !world.policies.has("weights") };
    const run = () => world.opened.defineTag("weights", policy);
    const { error } = await world.attempt("defineTag", ["BUFFER_ASLEEP"], run);
    if (error) return;
    if (policy.immutable) world.policies.set("weights", { 1: "offload", 2: "discard" });
    else world.policies.delete("weights");
  },
  usage: async () => {
    await world.attempt("usage", [], () => world.opened.usage());
    await world.attempt("memGetInfo", [], () => world.opened.memGetInfo(1));
    await world.attempt("plan", [], () => world.opened.plan("sleep"));
    await world.attempt("backup", [], () => world.opened.backup("weights").map((backup) => backup.read()));
  },
  close: async () => {
    await world.attempt("close", [], () => world.opened.close());
    await world.closeForGood();
  },
  getInstance: async () => {
    const held = world.faults;
    await world.closeForGood();
    world.arm(held);
    const run = () => CaMemAllocator.getInstance(options);
    world.allocator = (await world.attempt("getInstance", [], run)).value;
  },
};

/** The allocator is open and holds the recipe and nothing else, with content that is known. */
async function prepare(asleep: boolean): Promise<void> {
  world.allocator ??= CaMemAllocator.getInstance(options);
  await world.wakeEverything();
  for (const live of world.lives.slice(recipe.length)) await world.free(live);
  for (const { tag, device, sizeBytes } of recipe.slice(world.lives.length))
    await allocate(tag, device, sizeBytes);
  while (world.lives.some((live) => live.content === undefined && live.buffer?.immutable === false))
    await world.check(random, true);
  if (asleep) await sleep({ level: 1 });
}

interface Kind {
  readonly fault: (nth: number, onward: boolean) => Faults;
  readonly calls: () => number;
}

const kinds: Readonly<Record<string, Kind>> = {
  malloc: {
    fault: (nth, onward) => new Faults([], [allocationFault(nth, onward)]),
    calls: libraryCalls.allocations,
  },
  pthread_create: {
    fault: (nth, onward) => new Faults([], [threadFault(nth, onward)]),
    calls: libraryCalls.threads,
  },
  ...Object.fromEntries(
    ["aclrtGetCurrentContext", "aclrtSetCurrentContext", "aclrtSetDevice"].map((call) => [
      call,
      {
        fault: (nth: number, onward: boolean) => new Faults([callFault(call, nth, onward, 507899)], []),
        calls: () => callCount(call),
      },
    ]),
  ),
};

let tried = 0;

const { values } = parseArgs({ options: { verbs: { type: "string", default: "" } } });
const chosen = values.verbs === "" ? Object.keys(verbs) : values.verbs.split(",");

/** One verb with one fault; false once the verb makes fewer calls than that. */
async function attemptWith(
  verb: string,
  asleep: boolean,
  kind: Kind,
  nth: number,
  onward: boolean,
): Promise<boolean> {
  await prepare(asleep);
  const faults = kind.fault(nth, onward);
  say(`${++tried} ${verb} while ${asleep ? "asleep" : "awake"} with ${faults}`);
  world.arm(faults);
  const run = verbs[verb];
  if (run === undefined) throw new RangeError(`there is no verb ${verb}`);
  await run();
  const isReached = kind.calls() >= nth;
  world.endFaults();
  if (world.allocator === undefined) return isReached;
  await world.check(random, true);
  await world.wakeEverything();
  await world.check(random, true);
  return isReached;
}

async function run(): Promise<void> {
  writeFileSync(checkpointPath, checkpointOf({ tensor: new Uint8Array(3000).fill(5) }));
  await prepare(false);
  findCalls();
  for (const verb of chosen)
    for (const asleep of [false, true])
      for (const kind of Object.values(kinds))
        for (const onward of [false, true])
          for (let nth = 1; await attemptWith(verb, asleep, kind, nth, onward); nth++);
  await prepare(false);
  await world.closeForGood();
  say(`outcomes ${JSON.stringify([...world.outcomes])}`);
}

try {
  await run();
  process.exit(0);
} catch (error) {
  const text =
    error instanceof Finding ? error.message : error instanceof Error ? error.stack : String(error);
  say(`finding ${text}`);
  process.exit(1);
} finally {
  rmSync(folder, { recursive: true });
}
