/** Events without a running transition, whose outcome the model predicts. */

import type { CamemError } from "camem";
import { MiB, setFaults } from "../support/device.ts";
import {
  attempt,
  attemptNow,
  Divergence,
  deviceCount,
  expectSame,
  expectThat,
  type Harness,
  type Live,
  type Outcome,
} from "./harness.ts";
import type { Fate } from "./model.ts";
import type { Random } from "./random.ts";

/** Applies one random event to the allocator and the model. `log` describes it for the report of a failed run. */
export type Event = (harness: Harness, random: Random, log: (text: string) => void) => Promise<void> | void;

export const tags = ["weights", "buffers", "kv_cache", "default", "sleep_persistent", "adapters", "scratch"];

/** An internal error, out of memory and a lost heartbeat, and what each may be reported as. */
const faultKinds: readonly (readonly [number, readonly string[]])[] = [
  [507899, ["ACL_CALL_FAILED"]],
  [207001, ["OUT_OF_DEVICE_MEMORY", "OUT_OF_HOST_MEMORY"]],
  [507010, ["DEVICE_LOST"]],
];
export const faultCodes = faultKinds.map(([code]) => code);

/** The approximate number of segments. */
const crowd = 14;

function randomSize(random: Random): number {
  if (random.oneIn(12)) return random.between(2 * MiB, 6 * MiB);
  if (random.oneIn(40)) return random.between(20 * MiB, 40 * MiB);
  if (random.oneIn(6)) return random.pick([1, 511, 512, 513, 2 * MiB - 1, 2 * MiB, 2 * MiB + 1]);
  return random.magnitude(1, 2 * MiB);
}

/** Whether to free instead of allocating, to keep about that number. */
export const isCrowded = (harness: Harness, random: Random) =>
  random.below(harness.model.segments.length + 1) > crowd || harness.lives.length > 60;

/** A fault in any call or in queued work. */
export function randomFault(random: Random): string {
  const code = random.pick(faultCodes);
  if (random.oneIn(8)) return `aclrtMemcpyAsync.task:${random.between(1, 3)}=${code}`;
  return `*:${random.magnitude(1, 80)}=${code}`;
}

export function expectOutcome(what: string, outcome: Outcome<unknown>, expected: string | undefined): void {
  if (outcome.error?.code === expected) return;
  throw new Divergence(
    `${what}: the allocator ${outcome.error ? `throws ${outcome.error.code} (${outcome.error.message})` : "succeeds"}, the model ${expected ?? "succeeds"}`,
  );
}

/** Runs a call with one fault, which must explain any error. */
async function withFault<T>(
  random: Random,
  log: (text: string) => void,
  run: () => T | Promise<T>,
): Promise<Outcome<T>> {
  const fault = randomFault(random);
  log(`with ${fault}`);
  setFaults(fault);
  const outcome = await attempt(run);
  setFaults("");
  expectFaultExplains(outcome.error);
  return outcome;
}

/** Asserts that the error names the injected call and code, and has the code of camem for it. */
export function expectFaultExplains(error: CamemError | undefined): void {
  if (error === undefined) return;
  const { code, call, aclCode, message } = error;
  const legal = faultKinds.find(([injected]) => injected === aclCode)?.[1] ?? [];
  expectThat(
    legal.includes(code) && call !== undefined && message.includes(call),
    `an injected fault is reported as ${code}, call ${call}, code ${aclCode} (${message})`,
  );
}

// Allocating.

function requestOf(harness: Harness, random: Random) {
  const sizeBytes = randomSize(random);
  const device = random.oneIn(4) ? 1 : 0;
  const fits = harness.model.segmentBytes(sizeBytes) <= harness.model.free(device);
  return { sizeBytes, device, fits, refusal: fits ? undefined : "OUT_OF_DEVICE_MEMORY" };
}

export const malloc: Event = async (harness, random, log) => {
  if (isCrowded(harness, random)) return free(harness, random, log);
  const { sizeBytes, device, refusal } = requestOf(harness, random);
  const tag = random.oneIn(5) ? undefined : random.pick(tags);
  log(`malloc(${sizeBytes}, ${tag} on ${device})`);
  const run = () => harness.allocator.malloc(sizeBytes, { tag, device });
  let outcome =
    refusal === undefined && random.oneIn(6) ? await withFault(random, log, run) : attemptNow(run);
  if (outcome.error && refusal === undefined) {
    harness.compare(random);
    outcome = attemptNow(run);
  }
  expectOutcome("malloc", outcome, refusal);
  if (outcome.value) harness.adopt(outcome.value.ptr, sizeBytes, tag ?? "default", device, outcome.value);
};

export const poolMalloc: Event = async (harness, random, log) => {
  if (isCrowded(harness, random)) return free(harness, random, log);
  const sizeBytes = random.oneIn(4) ? randomSize(random) : random.magnitude(1, MiB);
  const device = random.oneIn(4) ? 1 : 0;
  const tag = random.pick(tags);
  log(`memoryPool(${tag} on ${device}).malloc(${sizeBytes})`);
  const pool = harness.allocator.memoryPool(tag, { device });
  await pooled(harness, random, log, () => pool.malloc(sizeBytes), { sizeBytes, device, tag });
};

interface PoolRequest {
  readonly sizeBytes: number;
  readonly device: number;
  readonly tag: string;
}

async function pooled(
  harness: Harness,
  random: Random,
  log: (text: string) => void,
  run: () => ReturnType<Harness["allocator"]["malloc"]>,
  request: PoolRequest,
): Promise<void> {
  const refusal = poolRefusal(harness, request);
  let outcome =
    refusal === undefined && random.oneIn(6) ? await withFault(random, log, run) : attemptNow(run);
  if (outcome.error && refusal === undefined) {
    harness.compare(random);
    outcome = attemptNow(run);
  }
  expectOutcome("pool.malloc", outcome, refusal);
  if (outcome.value) adoptPooledAwake(harness, outcome.value, request);
}

function poolRefusal({ model }: Harness, { tag, device, sizeBytes }: PoolRequest): string | undefined {
  if (model.poolHasRoom(tag, device, sizeBytes)) return undefined;
  return model.poolSegmentBytes(sizeBytes) <= model.free(device) ? undefined : "OUT_OF_DEVICE_MEMORY";
}

function adoptPooledAwake(harness: Harness, real: NonNullable<Live["real"]>, request: PoolRequest): void {
  const hadRoom = harness.model.poolHasRoom(request.tag, request.device, request.sizeBytes);
  const segmentsBefore = harness.model.segments.length;
  const { model } = harness.adoptPooled(real);
  expectSame("alignment", model.address % 512, 0);
  expectThat(
    hadRoom === (harness.model.segments.length === segmentsBefore),
    hadRoom ? "a new segment though there was room" : "no new segment though there was no room",
  );
  expectThat(model.segment.place === "device", "a buffer in memory that is asleep");
  expectAlone(harness, model);
}

/** A buffer lies within its segment and overlaps no other. */
export function expectAlone(harness: Harness, buffer: Live["model"]): void {
  const end = buffer.address + buffer.sizeBytes;
  const { segment } = buffer;
  expectThat(end <= segment.address + segment.sizeBytes, "a buffer beyond its segment");
  const others = harness.model.buffers.filter((other) => other !== buffer && other.segment === segment);
  const overlapped = others.find(
    (other) => other.address < end && buffer.address < other.address + other.sizeBytes,
  );
  expectThat(overlapped === undefined, `two buffers at ${buffer.address} and ${overlapped?.address}`);
}

/** `my_malloc`, here or on another thread. */
const nativeMallocOn =
  (foreign: boolean): Event =>
  async (harness, random, log) => {
    if (isCrowded(harness, random)) return (foreign ? foreignFree : nativeFree)(harness, random, log);
    const { sizeBytes, device, fits } = requestOf(harness, random);
    log(`my_malloc(${sizeBytes} on ${device}) in ${harness.regionTag()}`);
    const run = () =>
      foreign
        ? harness.onForeignThread({ call: "malloc", sizeBytes, device })
        : harness.pluggable.malloc(sizeBytes, device);
    let address = fits && random.oneIn(6) ? ((await withFault(random, log, run)).value ?? 0) : await run();
    if (address === 0 && fits) {
      harness.compare(random);
      address = await run();
    }
    expectThat(
      fits === address > 0,
      `my_malloc returns ${address}, with ${harness.model.free(device)} bytes free`,
    );
    if (fits) harness.adopt(address, sizeBytes, harness.regionTag(), device, undefined);
  };

export const nativeMalloc = nativeMallocOn(false);
export const foreignMalloc = nativeMallocOn(true);

// Freeing.

export function pickLive(
  harness: Harness,
  random: Random,
  fits: (live: Live) => boolean = () => true,
): Live | undefined {
  const candidates = harness.lives.filter(fits);
  return candidates.length === 0 ? undefined : random.pick(candidates);
}

export const isNative = (live: Live) => live.real === undefined;
export const describe = ({ model, real }: Live) =>
  `${real ? "buffer" : "native memory"} of ${model.sizeBytes} in ${model.segment.tag} (${model.segment.place})`;

export const free: Event = async (harness, random, log) => {
  const live = pickLive(harness, random, (each) => !isNative(each));
  if (!live?.real) return log("nothing to free");
  const { real } = live;
  log(`free the ${describe(live)}`);
  const run = () => real.free();
  const outcome = random.oneIn(6) ? await withFault(random, log, run) : attemptNow(run);
  if (outcome.error) {
    if (random.oneIn(2)) await allocateMeanwhile(harness, random, log);
    expectOutcome("free again", attemptNow(run), undefined);
  }
  expectSame("state of a freed buffer", real.state, "freed");
  expectOutcome("free a second time", attemptNow(run), "BUFFER_FREED");
  expectOutcome(
    "read after free",
    attemptNow(() => real.read(0, 1)),
    "BUFFER_FREED",
  );
  real[Symbol.dispose]();
  harness.forget(live);
  if (outcome.error) await harness.awaitRelease();
};

/** Between a free that failed and its repetition. */
async function allocateMeanwhile(
  harness: Harness,
  random: Random,
  log: (text: string) => void,
): Promise<void> {
  log("malloc meanwhile");
  const tag = random.pick(tags);
  const outcome = attemptNow(() => harness.allocator.malloc(1, { tag }));
  if (outcome.value) harness.adopt(outcome.value.ptr, 1, tag, 0, outcome.value);
  else expectOutcome("malloc meanwhile", outcome, "OUT_OF_DEVICE_MEMORY");
}

const nativeFreeOn =
  (foreign: boolean): Event =>
  async (harness, random, log) => {
    const live = pickLive(harness, random, isNative);
    if (!live) return log("nothing to free");
    log(`my_free the ${describe(live)}`);
    const { address, sizeBytes, segment } = live.model;
    const { device } = segment;
    const run = async () => {
      if (foreign) await harness.onForeignThread({ call: "free", address, sizeBytes, device });
      else harness.pluggable.free(address, sizeBytes, device);
    };
    const faulty = random.oneIn(6);
    if (faulty) await withFault(random, log, run);
    else await run();
    harness.forget(live);
    if (faulty) await runSomePlan(harness);
    if (faulty) await harness.awaitRelease();
    if (random.oneIn(4)) harness.pluggable.free(address, sizeBytes, device);
  };

/** The next plan releases memory that `my_free` could not; until then an allocation may lack it. */
async function runSomePlan(harness: Harness): Promise<void> {
  const outcome = attemptNow(() => harness.allocator.malloc(1, { tag: "flush" }));
  if (!outcome.value) return expectOutcome("malloc to flush", outcome, "OUT_OF_DEVICE_MEMORY");
  await harness.allocator.sleep({ level: 2, tags: ["flush"] });
  outcome.value.free();
}

export const nativeFree = nativeFreeOn(false);
export const foreignFree = nativeFreeOn(true);

/** Frees many buffers, so that pools and devices become empty too. */
export const freeMany: Event = (harness, random, log) => {
  const lives = harness.lives.filter(() => random.oneIn(2));
  log(`free ${lives.length} of ${harness.lives.length}`);
  for (const live of lives) {
    const { address, sizeBytes, segment } = live.model;
    if (live.real) live.real.free();
    else harness.pluggable.free(address, sizeBytes, segment.device);
    harness.forget(live);
  }
};

// Content.

/** The code with which accesses to a buffer throw. */
function writeRefusal({ model }: Live): string | undefined {
  if (model.segment.place !== "device") return "BUFFER_ASLEEP";
  return model.segment.immutable ? "BUFFER_IMMUTABLE" : undefined;
}

export function randomRange(random: Random, sizeBytes: number, atMost: number) {
  const count = random.magnitude(1, Math.max(1, Math.min(sizeBytes, atMost)));
  return { offset: random.below(sizeBytes - count + 1), count };
}

export const write: Event = async (harness, random, log) => {
  const live = pickLive(harness, random);
  if (!live) return log("nothing to write to");
  const { offset, count } = randomRange(random, live.model.sizeBytes, random.oneIn(20) ? MiB : 16_384);
  log(`write ${count} at ${offset} to the ${describe(live)}`);
  const bytes = random.bytes(count);
  const { real, model } = live;
  // Native writes to immutable content break a promise and cannot be detected, so avoid them.
  if (real === undefined && model.segment.immutable) return log("not: its content is immutable");
  if (real === undefined) {
    const done = harness.copies.write(model.segment.device, model.address + offset, bytes);
    expectSame("an engine's copy", done, model.segment.place === "device");
    if (done) harness.model.write(model, bytes, offset);
    return;
  }
  const run = () => real.write(bytes, offset);
  const refusal = writeRefusal(live);
  let outcome =
    refusal === undefined && random.oneIn(8) ? await withFault(random, log, run) : attemptNow(run);
  if (outcome.error && refusal === undefined) outcome = attemptNow(run);
  expectOutcome("write", outcome, refusal);
  if (refusal === undefined) harness.model.write(model, bytes, offset);
};

export const fill: Event = (harness, random, log) => {
  const live = pickLive(harness, random, (each) => !isNative(each));
  if (!live?.real) return log("nothing to fill");
  const { real, model } = live;
  const { offset, count } = random.oneIn(10)
    ? { offset: 0, count: model.sizeBytes }
    : randomRange(random, model.sizeBytes, 65_536);
  const value = random.below(256);
  log(`fill ${count} at ${offset} of the ${describe(live)}`);
  const outcome = attemptNow(() => real.fill(value, offset, count));
  expectOutcome("fill", outcome, writeRefusal(live));
  if (!outcome.error) harness.model.write(model, new Uint8Array(count).fill(value), offset);
};

// Tags and regions.

export const defineTag: Event = (harness, random, log) => {
  const tag = random.pick(tags);
  const fates: Fate[] = ["keep", "offload", "offload", "discard"];
  const policy = {
    ...(random.oneIn(2) ? { 1: random.pick(fates) } : {}),
    ...(random.oneIn(2) ? { 2: random.pick(fates) } : {}),
    ...(random.oneIn(2) ? { immutable: random.below(3) > 0 } : {}),
    ...(random.oneIn(2) ? { zero: random.oneIn(2) } : {}),
  };
  log(`defineTag(${tag}, ${JSON.stringify(policy)})`);
  const outcome = attemptNow(() => harness.allocator.defineTag(tag, policy));
  const ends = policy.immutable === false && harness.model.isImmutable(tag);
  const refusal = ends ? harness.model.dirtyRefusal(tag) : undefined;
  expectOutcome("defineTag", outcome, tag === "sleep_persistent" ? "INVALID_TAG" : refusal);
  if (!outcome.error) harness.model.defineTag(tag, policy);
};

export const markDirty: Event = (harness, random, log) => {
  const tag = random.pick(harness.knownTags());
  log(`markDirty(${tag})`);
  const outcome = attemptNow(() => harness.allocator.markDirty(tag));
  expectOutcome("markDirty", outcome, harness.model.dirtyRefusal(tag));
  if (!outcome.error) harness.model.markDirty(tag);
};

/** Opens a region that stays open over several events. */
export const enterRegion: Event = (harness, random, log) => {
  if (harness.regions.length > 3) return leaveRegion(harness, random, log);
  const tag = random.pick(tags);
  log(`enter ${tag}`);
  const { promise, resolve } = Promise.withResolvers<void>();
  const outcome = attemptNow(() => harness.allocator.useMemoryPool(tag, () => promise));
  expectOutcome("enter a region", outcome, harness.regionRefusal(tag));
  const body = outcome.value;
  if (body === undefined) return;
  const leave = () => {
    resolve();
    return body;
  };
  harness.regions.push({ tag, leave });
};

export const leaveRegion: Event = async (harness, random, log) => {
  if (harness.regions.length === 0) return log("no region to leave");
  const region = random.pick(harness.regions);
  log(`leave ${region.tag}`);
  await region.leave();
  harness.regions = harness.regions.filter((other) => other !== region);
};

/** Nested regions with allocations of every kind inside; some bodies throw. */
export const nestedRegions: Event = async (harness, random, log) => {
  const thrown = new RangeError("thrown by the body");
  const enter = (depth: number): void => {
    const tag = random.pick(tags);
    log(`{ ${tag}`);
    const refusal = harness.regionRefusal(tag);
    if (refusal !== undefined) {
      const outcome = attemptNow(() => harness.allocator.useMemoryPool(tag, () => undefined));
      expectOutcome("enter a region", outcome, refusal);
      return;
    }
    harness.allocator.useMemoryPool(tag, (pool) => {
      expectSame("tag of the pool", pool.tag, tag);
      allocateInside(harness, random, tag, pool);
      if (depth < 2 && random.oneIn(2)) {
        nested(depth + 1);
        allocateInside(harness, random, tag, pool);
      }
      if (random.oneIn(4)) throw thrown;
    });
    log("}");
  };
  const nested = (depth: number) => {
    try {
      enter(depth);
    } catch (error) {
      if (error !== thrown) throw error;
      log("} by throwing");
    }
  };
  nested(0);
};

function allocateInside(
  harness: Harness,
  random: Random,
  tag: string,
  pool: { malloc(sizeBytes: number): NonNullable<Live["real"]> },
): void {
  if (harness.lives.length > 60 || harness.model.segments.length > 2 * crowd) return;
  const sizeBytes = random.magnitude(1, MiB);
  const fits = harness.model.segmentBytes(sizeBytes) <= harness.model.free(0);
  const refusal = fits ? undefined : "OUT_OF_DEVICE_MEMORY";
  if (random.oneIn(3)) {
    const address = harness.pluggable.malloc(sizeBytes, 0);
    expectSame("my_malloc in a region succeeds", address > 0, fits);
    if (fits) harness.adopt(address, sizeBytes, tag, 0, undefined);
  } else if (random.oneIn(2)) {
    const outcome = attemptNow(() => harness.allocator.malloc(sizeBytes));
    expectOutcome("malloc in a region", outcome, refusal);
    if (outcome.value) harness.adopt(outcome.value.ptr, sizeBytes, tag, 0, outcome.value);
  } else {
    const request = { sizeBytes, device: 0, tag };
    const expected = poolRefusal(harness, request);
    const outcome = attemptNow(() => pool.malloc(sizeBytes));
    expectOutcome("pool.malloc in a region", outcome, expected);
    if (outcome.value) adoptPooledAwake(harness, outcome.value, request);
  }
}

/** Invalid requests, which throw and change nothing. */
export const badRequest: Event = async (harness, random, log) => {
  const { allocator } = harness;
  const live = pickLive(harness, random, (each) => !isNative(each))?.real;
  const requests: Record<string, [string, () => unknown]> = {
    "malloc(0)": ["INVALID_SIZE", () => allocator.malloc(0)],
    "malloc on device 7": ["UNKNOWN_DEVICE", () => allocator.malloc(1, { device: 7 })],
    "sleep an unknown tag": ["UNKNOWN_TAG", () => allocator.sleep({ tags: ["never used"] })],
    "wake an unknown tag": ["UNKNOWN_TAG", () => allocator.wakeUp({ tags: ["never used"] })],
    "sleep with both": ["INVALID_ARGUMENT", () => allocator.sleep({ level: 1, offloadTags: [] })],
    "my_malloc(0)": ["", () => expectSame("my_malloc(0)", harness.pluggable.malloc(0, 0), 0)],
    "my_malloc on device 7": [
      "",
      () => expectSame("my_malloc", harness.pluggable.malloc(1, deviceCount + 5), 0),
    ],
    "my_free of an unknown address": ["", () => harness.pluggable.free(4096 + random.below(2 ** 30), 1, 0)],
    ...(live ? { "read beyond the end": ["OUT_OF_BOUNDS", () => live.read(live.sizeBytes, 1)] } : {}),
  };
  const name = random.pick(Object.keys(requests));
  const [code = "", run = () => undefined] = requests[name] ?? [];
  log(name);
  expectOutcome(name, await attempt(run), code === "" ? undefined : code);
};
