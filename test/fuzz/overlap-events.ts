/** Allocations, frees, accesses and queries while a transition runs. */

import type { CamemError, SleepReport, WakeReport } from "camem";
import { holdDevice, MiB } from "../support/device.ts";
import {
  attempt,
  attemptNow,
  expectSame,
  expectThat,
  type Harness,
  type Live,
  type Outcome,
  stateOf,
} from "./harness.ts";
import {
  describe,
  type Event,
  expectAlone,
  expectOutcome,
  isCrowded,
  isNative,
  pickLive,
  randomRange,
  tags,
} from "./memory-events.ts";
import type { ModelSegment, Place } from "./model.ts";
import type { Random } from "./random.ts";
import { apply, call, placeAfter, randomTransition, refusalOf, type Transition, text } from "./transition.ts";

/** The state while a transition runs, and changes that its outcome decides. */
interface Overlap {
  readonly transition: Transition;
  /** The segments at its beginning. */
  readonly segments: readonly ModelSegment[];
  readonly placeBefore: ReadonlyMap<ModelSegment, Place>;
  /** Memory allocated since, which may or may not be part of the transition. */
  readonly added: Live[];
  /** Writes that succeeded; the model applies them after the transition. */
  readonly writes: { live: Live; bytes: Uint8Array; offset: number }[];
  /** Bounds of the free memory on each device. */
  readonly free: { least: number; most: number }[];
  /** Bytes of `sleep_persistent` memory that hold the device. */
  flagBytes: number;
}

function beginOverlap(harness: Harness, transition: Transition): Overlap {
  const { model } = harness;
  const before = [0, 1].map((device) => model.free(device));
  const changes = [0, 1].map((device) =>
    model.segments
      .filter((segment) => segment.device === device)
      .reduce((total, segment) => total + released(harness, transition, segment), 0),
  );
  return {
    transition,
    segments: [...model.segments],
    placeBefore: new Map(model.segments.map((segment) => [segment, segment.place])),
    added: [],
    writes: [],
    flagBytes: 0,
    free: before.map((bytes, device) => {
      const after = bytes + (changes[device] ?? 0);
      return { least: Math.min(bytes, after), most: Math.max(bytes, after) };
    }),
  };
}

/** Device memory that a transition releases for a segment; negative when it takes memory. */
function released(harness: Harness, transition: Transition, segment: ModelSegment): number {
  const after = placeAfter(harness, transition, segment);
  if (segment.place === after) return 0;
  if (after === "device") return -segment.sizeBytes;
  return segment.place === "device" ? segment.sizeBytes : 0;
}

const isConcerned = (harness: Harness, { transition, placeBefore }: Overlap, segment: ModelSegment) =>
  !placeBefore.has(segment) || placeAfter(harness, transition, segment) !== segment.place;

function noteTaken(overlap: Overlap, segment: ModelSegment): void {
  const free = overlap.free[segment.device];
  if (!free) return;
  free.least -= segment.sizeBytes;
  free.most -= segment.sizeBytes;
}

/** Asserts that an allocation of new memory can have this outcome. */
function expectPlausible(overlap: Overlap, device: number, segmentBytes: number, worked: boolean): void {
  const { least = 0, most = 0 } = overlap.free[device] ?? {};
  const plausible = worked ? segmentBytes <= most : segmentBytes > least;
  expectThat(
    plausible,
    `allocating ${segmentBytes} ${worked ? "works" : "fails"} with ${least} to ${most} bytes free`,
  );
}

type OverlapCall = (
  harness: Harness,
  random: Random,
  overlap: Overlap,
  log: (text: string) => void,
) => unknown;

const mallocMeanwhile: OverlapCall = (harness, random, overlap, log) => {
  if (isCrowded(harness, random)) return;
  const sizeBytes = random.magnitude(1, 4 * MiB);
  const tag = random.pick(tags);
  log(`malloc(${sizeBytes}, ${tag})`);
  const outcome = attemptNow(() => harness.allocator.malloc(sizeBytes, { tag }));
  if (outcome.error) expectOutcome("malloc meanwhile", outcome, "OUT_OF_DEVICE_MEMORY");
  expectPlausible(overlap, 0, harness.model.segmentBytes(sizeBytes), outcome.error === undefined);
  if (outcome.value) takeUp(overlap, harness.adopt(outcome.value.ptr, sizeBytes, tag, 0, outcome.value));
};

function takeUp(overlap: Overlap, live: Live): void {
  noteTaken(overlap, live.model.segment);
  overlap.added.push(live);
}

const poolMallocMeanwhile: OverlapCall = (harness, random, overlap, log) => {
  if (isCrowded(harness, random)) return;
  const sizeBytes = random.magnitude(1, MiB);
  const tag = random.pick(tags);
  log(`memoryPool(${tag}).malloc(${sizeBytes})`);
  const outcome = attemptNow(() => harness.allocator.memoryPool(tag).malloc(sizeBytes));
  const known = new Set(harness.model.segments);
  if (outcome.error) {
    expectOutcome("pool.malloc meanwhile", outcome, "OUT_OF_DEVICE_MEMORY");
    expectPlausible(overlap, 0, harness.model.poolSegmentBytes(sizeBytes), false);
    return;
  }
  if (!outcome.value) return;
  const live = harness.adoptPooled(outcome.value);
  const { segment } = live.model;
  expectAlone(harness, live.model);
  if (known.has(segment)) {
    expectThat(
      !segment.immutable || segment.place !== "device",
      "a buffer in memory whose content is immutable",
    );
    const awake = segment.place === "device" || isConcerned(harness, overlap, segment);
    expectThat(awake, "a buffer in memory that is asleep");
  } else takeUp(overlap, live);
};

const foreignMallocMeanwhile: OverlapCall = async (harness, random, overlap, log) => {
  if (isCrowded(harness, random)) return;
  const sizeBytes = random.magnitude(1, 4 * MiB);
  const foreign = random.oneIn(2);
  const tag = harness.regionTag();
  log(`my_malloc(${sizeBytes}) in ${tag}${foreign ? " on a foreign thread" : ""}`);
  const address = foreign
    ? await harness.onForeignThread({ call: "malloc", sizeBytes, device: 0 })
    : harness.pluggable.malloc(sizeBytes, 0);
  expectPlausible(overlap, 0, harness.model.segmentBytes(sizeBytes), address > 0);
  if (address > 0) takeUp(overlap, harness.adopt(address, sizeBytes, tag, 0, undefined));
};

const freeMeanwhile: OverlapCall = async (harness, random, overlap, log) => {
  const live = pickLive(harness, random);
  if (!live) return;
  log(`free the ${describe(live)}`);
  const { address, sizeBytes, segment } = live.model;
  if (live.real) {
    live.real.free();
    expectSame("state of a buffer that was freed", live.real.state, "freed");
  } else if (random.oneIn(2)) harness.pluggable.free(address, sizeBytes, segment.device);
  else await harness.onForeignThread({ call: "free", address, sizeBytes, device: segment.device });
  harness.forget(live);
  const free = overlap.free[segment.device];
  if (free) free.most += segment.sizeBytes;
};

const accessMeanwhile: OverlapCall = (harness, random, overlap, log) => {
  const live = pickLive(harness, random, (each) => !isNative(each));
  if (!live?.real) return;
  const { real, model } = live;
  const { offset, count } = randomRange(random, model.sizeBytes, 4096);
  const bytes = random.bytes(count);
  const outcome = attemptNow(() => real.write(bytes, offset));
  log(`write ${count} at ${offset} to the ${describe(live)}: ${outcome.error?.code ?? "done"}`);
  const concerned = isConcerned(harness, overlap, model.segment);
  const awakeBefore = model.segment.place === "device";
  const { immutable } = model.segment;
  if (outcome.error) {
    const legal = concerned || !awakeBefore ? ["BUFFER_ASLEEP", "BUFFER_MOVING"] : [];
    if (immutable) legal.push("BUFFER_IMMUTABLE");
    expectThat(legal.includes(outcome.error.code), `a write meanwhile throws ${outcome.error.code}`);
    return;
  }
  expectThat(concerned || awakeBefore, "a write to memory that is asleep succeeds");
  expectThat(!immutable, "a write to immutable content succeeds");
  if (awakeBefore && overlap.transition.kind === "sleep") harness.model.write(model, bytes, offset);
  else overlap.writes.push({ live, bytes, offset });
};

const lookMeanwhile: OverlapCall = (harness, random, overlap, log) => {
  log("look");
  for (const { real, model } of harness.lives) {
    if (!real) continue;
    const legal = ["moving", stateOf(model.segment)];
    const after = placeAfter(harness, overlap.transition, model.segment);
    const names = { device: "mapped", host: "offloaded", nowhere: "discarded" } as const;
    if (isConcerned(harness, overlap, model.segment)) legal.push(names[after]);
    else legal.shift();
    expectThat(
      legal.includes(real.state),
      `a buffer is ${real.state} meanwhile, where only ${legal} are legal`,
    );
  }
  const tag = random.pick(harness.knownTags());
  expectSame(
    `getCurrentUsage("${tag}") meanwhile`,
    harness.allocator.getCurrentUsage(tag),
    harness.model.currentUsage(tag) + (tag === "sleep_persistent" ? overlap.flagBytes : 0),
  );
};

const overlapCalls = [
  mallocMeanwhile,
  poolMallocMeanwhile,
  foreignMallocMeanwhile,
  freeMeanwhile,
  freeMeanwhile,
  accessMeanwhile,
  accessMeanwhile,
  lookMeanwhile,
];

export async function aMoment(random: Random): Promise<void> {
  const howLong = random.pick(["a turn", "a turn", "a while", "none"] as const);
  if (howLong === "a turn") await new Promise(setImmediate);
  if (howLong === "a while") await Bun.sleep(random.between(0, 2));
}

/** Allocates, frees, writes and queries, here and on another thread, while a transition runs. */
export const overlapped: Event = async (harness, random, log) => {
  const transition = randomTransition(harness, random);
  log(`${text(transition)} {`);
  const overlap = beginOverlap(harness, transition);
  const controller = new AbortController();
  const abort = random.oneIn(5);
  const running = attempt(() => call(harness, transition, { signal: controller.signal }));
  for (let count = random.between(1, 5); count > 0; count--) {
    await aMoment(random);
    await random.pick(overlapCalls)(harness, random, overlap, log);
  }
  if (abort) controller.abort();
  log(abort ? "abort }" : "}");
  const outcome = await running;
  expectLegal(overlap, outcome.error, abort);
  finishOverlap(harness, overlap, outcome);
  if (!outcome.error) harness.compareContents();
};

/** Like `overlapped`, with a sleep that waits for a held device, so all its memory is certainly moving. */
export const held: Event = async (harness, random, log) => {
  const transition = randomTransition(harness, random);
  const flagBytes = 2 * MiB;
  if (transition.kind !== "sleep" || harness.model.free(0) < flagBytes) return log("nothing to hold");
  const { moving } = harness.model.sleepMoves(transition.request);
  const waits = moving.some((segment) => segment.place === "device" && segment.device === 0);
  if (!waits || refusalOf(harness, transition)) return log("nothing to wait for");
  log(`${text(transition)} while the device is held {`);
  const overlap = beginOverlap(harness, transition);
  overlap.flagBytes = flagBytes;
  const free = overlap.free[0];
  if (free) free.least -= flagBytes;
  const device = holdDevice();
  const controller = new AbortController();
  const running = attempt(() => call(harness, transition, { signal: controller.signal }));
  const abort = random.oneIn(3);
  try {
    const own = harness.lives.filter((live) => moving.includes(live.model.segment) && !isNative(live));
    while (own.some(({ real }) => real?.state !== "moving")) await new Promise(setImmediate);
    for (let count = random.between(1, 6); count > 0; count--)
      await random.pick(heldCalls)(harness, random, overlap, log);
    if (abort) controller.abort();
  } finally {
    device.release();
  }
  log(abort ? "abort }" : "}");
  const outcome = await running;
  expectLegal(overlap, outcome.error, abort);
  expectThat(!abort || outcome.error !== undefined, "a sleep that was aborted while it waited has gone on");
  finishOverlap(harness, overlap, outcome);
};

/** Frees only moving memory: freeing other memory would wait for the held device on this thread. */
const freeMoving: OverlapCall = (harness, random, _, log) => {
  const live = pickLive(harness, random, ({ real }) => real?.state === "moving");
  if (!live?.real) return;
  log(`free the ${describe(live)}`);
  live.real.free();
  expectSame("state of a buffer that was freed", live.real.state, "freed");
  expectOutcome(
    "free a second time",
    attemptNow(() => live.real?.free()),
    "BUFFER_FREED",
  );
  harness.forget(live);
};

const heldCalls = [
  mallocMeanwhile,
  poolMallocMeanwhile,
  foreignMallocMeanwhile,
  freeMoving,
  freeMoving,
  accessMeanwhile,
  lookMeanwhile,
];

function expectLegal({ transition }: Overlap, error: CamemError | undefined, abort: boolean): void {
  if (error === undefined) return;
  const shortage = transition.kind === "sleep" ? "HOST_BUDGET_EXCEEDED" : "OUT_OF_DEVICE_MEMORY";
  const legal = [shortage, ...(abort ? ["ABORTED"] : [])];
  expectThat(
    legal.includes(error.code),
    `${text(transition)} with calls meanwhile rejects with ${error.code} (${error.message})`,
  );
}

/** Applies the outcome to the model. New memory is mapped, or in the place where the transition leaves its tag. */
function finishOverlap(harness: Harness, overlap: Overlap, outcome: Outcome<SleepReport | WakeReport>): void {
  const complete = outcome.error === undefined;
  if (complete) apply(harness, overlap.transition, overlap.segments);
  for (const { segment } of overlap.added.map((live) => live.model)) {
    // Another buffer may have replaced the one that the segment was allocated for.
    const live = harness.lives.find(({ model }) => model.segment === segment);
    if (live === undefined) continue;
    const place = harness.placeOf(live);
    const legal = ["device", ...(complete ? [placeAfter(harness, overlap.transition, segment)] : [])];
    expectThat(legal.includes(place), `new memory of ${segment.tag} is on the ${place} afterwards`);
    harness.model.place(segment, place);
  }
  for (const { live, bytes, offset } of overlap.writes)
    if (harness.lives.includes(live) && live.model.segment.place === "device")
      harness.model.write(live.model, bytes, offset);
}
