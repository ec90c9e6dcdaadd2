/** What the process under torture does at random, with or without faults. Each one keeps the world up to date by itself. */

import { CaMemAllocator, type CamemErrorCode, type SleepOptions } from "camem";
import type { Random } from "../fuzz/random.ts";
import { MiB } from "../support/device.ts";
import { nativeThreads } from "./faults.ts";
import { type WorkerCommand, workerByte, workerBytes } from "./worker.ts";
import { WorkerHandle } from "./worker-handle.ts";
import type { Live, Outcome, World } from "./world.ts";

/** `log` says what it is, for whoever reads a failing run. */
export type Operation = (world: World, random: Random, log: (text: string) => void) => Promise<void> | void;

const tags = ["weights", "buffers", "kv_cache", "default", "sleep_persistent", "adapters"] as const;

const presets: Readonly<Record<string, { readonly 1: string; readonly 2: string }>> = {
  weights: { 1: "offload", 2: "discard" },
  buffers: { 1: "offload", 2: "offload" },
  sleep_persistent: { 1: "keep", 2: "keep" },
};
const discarded = { 1: "discard", 2: "discard" };

const crowd = 20;
const awakeOnly: readonly CamemErrorCode[] = ["BUFFER_ASLEEP", "BUFFER_MOVING", "BUFFER_IMMUTABLE"];
const transitionRefusals: readonly CamemErrorCode[] = [
  "OUT_OF_DEVICE_MEMORY",
  "HOST_BUDGET_EXCEEDED",
  "UNKNOWN_TAG",
];

function randomSize(random: Random): number {
  if (random.oneIn(6)) return random.pick([1, 511, 512, 2 * MiB - 1, 2 * MiB, 2 * MiB + 1]);
  return random.oneIn(10) ? random.between(2 * MiB, 5 * MiB) : random.magnitude(1, MiB);
}

export const malloc: Operation = async (world, random, log) => {
  if (world.lives.length > crowd) return free(world, random, log);
  const sizeBytes = randomSize(random);
  const device = random.oneIn(3) ? 1 : 0;
  const tag = random.pick(tags);
  const isPooled = random.oneIn(2);
  log(`${isPooled ? "pool." : ""}malloc(${sizeBytes}, ${tag} on ${device})`);
  const { value: buffer } = await world.attempt("malloc", ["OUT_OF_DEVICE_MEMORY"], () =>
    isPooled
      ? world.opened.memoryPool(tag, { device }).malloc(sizeBytes)
      : world.opened.malloc(sizeBytes, { tag, device }),
  );
  if (buffer === undefined) return;
  const live: Live = { address: buffer.ptr, sizeBytes, tag, device, buffer, content: undefined };
  world.lives.push(live);
  if (!random.oneIn(3)) await fill(world, random, live);
};

async function fill(world: World, random: Random, live: Live): Promise<void> {
  const { buffer } = live;
  if (buffer === undefined) return;
  const content = random.bytes(live.sizeBytes);
  // The record changes with the memory: another operation may follow at once.
  const { error } = await world.attempt("write", awakeOnly, () => {
    buffer.write(content);
    live.content = content;
  });
  if (error !== undefined && !awakeOnly.includes(error.code)) live.content = undefined;
}

export const mallocMany: Operation = async (world, random, log) => {
  if (world.lives.length > crowd) return free(world, random, log);
  const sizes = Array.from({ length: random.between(2, 5) }, () => randomSize(random));
  const tag = random.pick(tags);
  log(`mallocAll(${sizes}, ${tag})`);
  const { value: buffers = [] } = await world.attempt("mallocAll", ["OUT_OF_DEVICE_MEMORY"], () =>
    world.opened.memoryPool(tag).mallocAll(sizes),
  );
  for (const buffer of buffers) {
    const { ptr: address, sizeBytes, device } = buffer;
    world.lives.push({ address, sizeBytes, tag, device, buffer, content: undefined });
  }
};

export const nativeMalloc: Operation = async (world, random, log) => {
  if (world.lives.length > crowd) return free(world, random, log);
  const sizeBytes = randomSize(random);
  const device = random.oneIn(3) ? 1 : 0;
  const tag = random.pick(tags);
  log(`my_malloc(${sizeBytes}, ${tag} on ${device})`);
  const { value: address = 0 } = await world.attempt("region", [], () =>
    world.opened.useMemoryPool(tag, () => world.pluggable.malloc(sizeBytes, device)),
  );
  world.note(`my_malloc: ${address === 0 ? "null" : "done"}`);
  if (address !== 0)
    world.lives.push({ address, sizeBytes, tag, device, buffer: undefined, content: undefined });
};

export const free: Operation = async (world, random, log) => {
  if (world.lives.length === 0) return log("free nothing");
  const count = random.oneIn(8) ? random.between(2, 8) : 1;
  for (let number = 0; number < count && world.lives.length > 0; number++) {
    const live = random.pick(world.lives);
    log(`free ${live.sizeBytes} bytes of ${live.tag}`);
    await world.free(live);
  }
};

export const write: Operation = async (world, random, log) => {
  if (world.lives.length === 0) return log("write nothing");
  const live = random.pick(world.lives);
  const { buffer, content } = live;
  if (buffer === undefined || content === undefined || random.oneIn(3)) {
    log(`write all of ${live.sizeBytes} bytes of ${live.tag}`);
    return fill(world, random, live);
  }
  const offset = random.below(live.sizeBytes);
  const size = random.between(1, live.sizeBytes - offset);
  log(`fill ${size} bytes of ${live.tag}`);
  const { error } = await world.attempt("fill", awakeOnly, () => {
    buffer.fill(9, offset, size);
    content.fill(9, offset, offset + size);
  });
  if (error !== undefined && !awakeOnly.includes(error.code)) live.content = undefined;
};

export const read: Operation = async (world, random, log) => {
  if (world.lives.length === 0) return log("read nothing");
  const { buffer, sizeBytes, tag } = random.pick(world.lives);
  log(`read ${sizeBytes} bytes of ${tag}`);
  if (buffer) await world.attempt("read", awakeOnly, () => buffer.read());
};

export const readBackups: Operation = async (world, random, log) => {
  const tag = random.pick(tags);
  log(`read the backups of ${tag}`);
  const { value: backups = [] } = await world.attempt("backup", ["UNKNOWN_TAG"], () =>
    world.opened.backup(tag),
  );
  const refusals: readonly CamemErrorCode[] = ["NO_BACKUP", "BUFFER_MOVING", "BUFFER_FREED"];
  for (const backup of backups) await world.attempt("Backup.read", refusals, () => backup.read());
};

// Transitions.

interface Control {
  readonly signal?: AbortSignal;
  readonly onProgress?: () => void;
}

/** Aborted at once, after some time, or when it has got so far; mostly not at all. */
function randomControl(random: Random, log: (text: string) => void): Control {
  if (!random.oneIn(4)) return {};
  const controller = new AbortController();
  const { signal } = controller;
  if (random.oneIn(2)) {
    const milliseconds = random.below(8);
    log(`aborted after ${milliseconds} ms`);
    if (milliseconds === 0) controller.abort();
    else setTimeout(() => controller.abort(), milliseconds);
    return { signal };
  }
  let left = random.between(1, 6);
  log(`aborted at report ${left}`);
  return { signal, onProgress: () => void (--left === 0 && controller.abort()) };
}

/** Tags that a request may name. */
const knownTags = (world: World) =>
  tags.filter(
    (tag) => tag !== "adapters" || world.policies.has(tag) || world.lives.some((live) => live.tag === tag),
  );

function randomSelection(world: World, random: Random): SleepOptions {
  const only = random.oneIn(3) ? { tags: random.some(knownTags(world)) } : {};
  if (random.oneIn(4)) return { ...only, offloadTags: random.some(knownTags(world)) };
  return { ...only, level: random.pick([0, 1, 1, 1, 1, 2, 2] as const) };
}

/** What a sleep does to a tag. Native threads and Workers know presets only. */
function actionOf(world: World, tag: string, { level = 1, offloadTags, tags: only }: SleepOptions): string {
  if (level === 0 || tag === "sleep_persistent" || (only && !only.includes(tag))) return "keep";
  if (offloadTags) return offloadTags.includes(tag) ? "offload" : "discard";
  return (world.policies.get(tag) ?? presets[tag] ?? discarded)[level];
}

export function noteDiscarded(world: World, options: SleepOptions): void {
  for (const live of world.lives)
    if (actionOf(world, live.tag, options) === "discard") live.content = undefined;
}

export const sleep: Operation = async (world, random, log) => {
  const options = randomSelection(world, random);
  log(`sleep ${JSON.stringify(options)}`);
  const control = randomControl(random, log);
  const refusals = control.signal ? [...transitionRefusals, "ABORTED" as const] : transitionRefusals;
  const { error } = await world.attempt("sleep", refusals, () =>
    world.opened.sleep({ ...options, ...control }),
  );
  if (error === undefined || error.transitionComplete) noteDiscarded(world, options);
};

export const wake: Operation = async (world, random, log) => {
  const options = random.oneIn(3) ? { tags: random.some(knownTags(world)) } : {};
  log(`wakeUp ${JSON.stringify(options)}`);
  const control = randomControl(random, log);
  const refusals = control.signal ? [...transitionRefusals, "ABORTED" as const] : transitionRefusals;
  await world.attempt("wakeUp", refusals, () => world.opened.wakeUp({ ...options, ...control }));
};

export const prepare: Operation = async (world, random, log) => {
  const options = randomSelection(world, random);
  log(`prepare ${JSON.stringify(options)}`);
  await world.attempt("prepare", transitionRefusals, () => world.opened.prepare(options));
};

export const markDirty: Operation = async (world, random, log) => {
  const tag = random.pick(tags);
  log(`markDirty(${tag})`);
  const refusals: readonly CamemErrorCode[] = ["UNKNOWN_TAG", "BUFFER_ASLEEP", "BUFFER_MOVING"];
  await world.attempt("markDirty", refusals, () => world.opened.markDirty(tag));
};

export const defineTag: Operation = async (world, random, log) => {
  const tag = random.pick(["weights", "buffers", "adapters"]);
  const policy = {
    1: "offload",
    2: random.pick(["offload", "discard"] as const),
    immutable: random.oneIn(2),
  } as const;
  log(`defineTag(${tag}, ${JSON.stringify(policy)})`);
  const { error } = await world.attempt("defineTag", ["BUFFER_ASLEEP", "BUFFER_MOVING"], () =>
    world.opened.defineTag(tag, policy),
  );
  if (error === undefined) world.policies.set(tag, policy);
};

export const query: Operation = async (world, _random, log) => {
  log("query");
  const { opened } = world;
  const queries: Readonly<Record<string, () => unknown>> = {
    usage: () => opened.usage(),
    hostUsage: () => opened.hostUsage(),
    getCurrentUsage: () => opened.getCurrentUsage(),
    isSleeping: () => opened.isSleeping,
    "plan of a sleep": () => opened.plan("sleep"),
    "plan of a wake-up": () => opened.plan("wake"),
    memGetInfo: () => opened.memGetInfo(1),
    backend: () => opened.backend,
  };
  for (const [name, run] of Object.entries(queries)) await world.attempt(name, [], run);
};

// Other threads.

export const startThreads: Operation = (world, random, log) => {
  if (world.threadsRun) {
    log("stop the native threads");
    return world.stopThreads();
  }
  const count = random.between(1, 4);
  log(`start ${count} native threads`);
  nativeThreads.start(count, random.below(2 ** 20));
  world.threadsRun = true;
};

async function ask(
  world: World,
  command: WorkerCommand,
  refusals: readonly CamemErrorCode[],
): Promise<Outcome<number | undefined>> {
  const { worker } = world;
  if (worker === undefined) return { value: undefined };
  return world.attempt(`Worker's ${command}`, [...refusals, "CLOSED"], () => worker.ask(command));
}

async function allocateInWorker(world: World): Promise<void> {
  const { value: address } = await ask(world, "allocate", ["OUT_OF_DEVICE_MEMORY"]);
  if (address === undefined) return;
  const sizeBytes = workerBytes;
  const live: Live = { address, sizeBytes, tag: "weights", device: 0, buffer: undefined, content: undefined };
  world.lives.push(live);
  const { error } = await ask(world, "fill", awakeOnly);
  if (error === undefined) live.content = new Uint8Array(workerBytes).fill(workerByte);
}

export const useWorker: Operation = async (world, random, log) => {
  world.worker ??= new WorkerHandle();
  const chosen = random.pick([
    "allocate",
    "sleep",
    "wakeUp",
    "usage",
    "close",
    "terminate",
    "terminate midway",
  ]);
  log(`Worker: ${chosen}`);
  const { error } = await ask(world, "open", []);
  if (error !== undefined) return;
  switch (chosen) {
    case "allocate":
      return allocateInWorker(world);
    case "sleep": {
      const { error: failure } = await ask(world, "sleep", transitionRefusals);
      if (failure === undefined || failure.transitionComplete) noteDiscardedByPresets(world);
      return;
    }
    case "wakeUp":
    case "usage":
      return void (await ask(world, chosen, transitionRefusals));
    case "close":
      await ask(world, "close", []);
      break;
    case "terminate midway":
      world.worker.send("sleep");
      await Bun.sleep(random.below(4));
      noteDiscardedByPresets(world);
      break;
  }
  world.worker.terminate();
  world.worker = undefined;
};

/** A Worker does not know what `defineTag` said here. */
function noteDiscardedByPresets(world: World): void {
  for (const live of world.lives)
    if ((presets[live.tag] ?? discarded)[1] === "discard") live.content = undefined;
}

export const pause: Operation = async (_world, random, log) => {
  const milliseconds = random.between(1, 10);
  log(`wait ${milliseconds} ms`);
  await Bun.sleep(milliseconds);
};

/** Closes, whatever runs, and opens another allocator. */
export const reopen: Operation = async (world, random, log) => {
  log("close");
  world.worker?.terminate();
  world.worker = undefined;
  await world.attempt("close", [], () => world.opened.close());
  await world.closeForGood();
  await open(world, random, log);
};

/** A new allocator with settings of its own; tried with the faults that are armed, then without. */
export async function open(world: World, random: Random, log: (text: string) => void): Promise<void> {
  const options = {
    poolSegment: random.pick([2, 2, 4]) * MiB,
    retain: random.pick(["none", "all", "8MiB"]),
    verify: random.oneIn(4),
    prepareOnLoad: random.oneIn(4),
    ...(random.oneIn(3) && { hostBudget: random.pick([24, 10, 2]) * MiB, spillDir: world.folder }),
  };
  log(`getInstance(${JSON.stringify(options)})`);
  const run = () => CaMemAllocator.getInstance(options);
  const { value } = await world.attempt("getInstance", [], run);
  if (value === undefined) {
    world.endFaults();
    world.allocator = (await world.attempt("getInstance again", [], run)).value;
  } else world.allocator = value;
}
