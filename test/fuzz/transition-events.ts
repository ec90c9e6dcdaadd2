/** Sleeps and wake-ups: undisturbed, with faults, aborted, two at once, and with other calls while they run. */

import type { CamemError, SleepReport, WakeReport } from "camem";
import { holdDevice, MiB, setFaults } from "../support/device.ts";
import {
  describe,
  type Event,
  expectAlone,
  expectFaultExplains,
  expectOutcome,
  faultCodes,
  isCrowded,
  isNative,
  pickLive,
  randomFault,
  randomRange,
  tags,
} from "./memory-events.ts";
import type { ModelSegment, Place, SleepRequest, WakeRequest } from "./model.ts";
import type { Random } from "./random.ts";
import {
  attempt,
  attemptNow,
  expectSame,
  expectThat,
  type Live,
  type Outcome,
  stateOf,
  type World,
} from "./world.ts";

type Transition =
  | { readonly kind: "sleep"; readonly request: SleepRequest }
  | { readonly kind: "wake"; readonly request: WakeRequest };

/** What both calls take beside the request. */
interface Control {
  readonly signal?: AbortSignal;
  readonly onProgress?: () => void;
}

function randomTransition(world: World, random: Random): Transition {
  const known = world.knownTags();
  const only = random.oneIn(3) ? { tags: random.some(known) } : {};
  const asleep = world.model.isSleeping();
  if (random.oneIn(10) ? !asleep : asleep) {
    if (random.below(3) > 0) return { kind: "wake", request: only };
  }
  if (random.oneIn(3))
    return { kind: "sleep", request: { ...only, offloadTags: random.some(known).slice(0, 3) } };
  const level = random.oneIn(4) ? {} : { level: random.pick([0, 1, 1, 1, 2, 2] as const) };
  return { kind: "sleep", request: { ...only, ...level } };
}

const text = ({ kind, request }: Transition) => `${kind} ${JSON.stringify(request)}`;

/** Leaves out what depends on time, and the order of tags, which is not promised. */
function comparable(report: SleepReport | WakeReport): unknown {
  const { durations: _, ...rest } = report;
  if (!("remappedTags" in rest)) return rest;
  return {
    ...rest,
    remappedTags: rest.remappedTags.toSorted(),
    stillAsleep: rest.stillAsleep.toSorted(),
  };
}

function call(
  world: World,
  transition: Transition,
  control: Control = {},
): Promise<SleepReport | WakeReport> {
  return transition.kind === "sleep"
    ? world.allocator.sleep({ ...transition.request, ...control })
    : world.allocator.wakeUp({ ...transition.request, ...control });
}

const refusalOf = ({ model }: World, { kind, request }: Transition) =>
  kind === "sleep" ? model.sleepRefusal(request) : model.wakeRefusal(request);

const reportOf = ({ model }: World, { kind, request }: Transition): unknown =>
  kind === "sleep" ? model.sleepReport(request) : model.wakeReport(request);

function apply({ model }: World, { kind, request }: Transition, among?: readonly ModelSegment[]): void {
  if (kind === "sleep") model.sleep(request, among);
  else model.wake(request, among);
}

function placeAfter({ model }: World, { kind, request }: Transition, segment: ModelSegment): Place {
  return kind === "sleep" ? model.placeAfterSleep(segment, request) : model.placeAfterWake(segment, request);
}

/** The outcome of a transition that nothing disturbed. */
function settle(world: World, transition: Transition, outcome: Outcome<SleepReport | WakeReport>): void {
  const refusal = refusalOf(world, transition);
  expectOutcome(text(transition), outcome, refusal);
  if (refusal) world.note(`refused: ${refusal}`);
  if (outcome.value === undefined) return;
  expectSame(`report of ${text(transition)}`, comparable(outcome.value), reportOf(world, transition));
  apply(world, transition);
}

function settleContents(world: World, transition: Transition): void {
  if (transition.kind === "wake") world.compareContents();
}

export const plain: Event = async (world, random, log) => {
  const transition = randomTransition(world, random);
  log(text(transition));
  if (random.oneIn(3)) expectPlan(world, transition);
  settle(world, transition, await attempt(() => call(world, transition)));
  settleContents(world, transition);
};

function expectPlan(world: World, transition: Transition): void {
  const { allocator, model } = world;
  const { kind, request } = transition;
  const real = kind === "sleep" ? allocator.plan("sleep", request) : allocator.plan("wake", request);
  const devices = real.devices.toSorted((a, b) => a.device - b.device);
  const expected = kind === "sleep" ? model.sleepPlan(request) : model.wakePlan(request);
  if (!model.options.spills) {
    expectSame(`plan of ${text(transition)}`, { ...real, devices }, expected);
    return;
  }
  const { host, spill, ...rest } = real;
  const neededBytes = host.neededBytes + (spill?.neededBytes ?? 0);
  expectSame(
    `plan of ${text(transition)}`,
    { ...rest, devices, neededBytes },
    {
      tags: expected.tags,
      devices: expected.devices,
      fits: expected.fits,
      neededBytes: expected.host.neededBytes,
    },
  );
}

/** Host memory for a sleep that may come or not. */
export const prepare: Event = async (world, random, log) => {
  const { model, allocator } = world;
  const level = random.pick([0, 1, 1, 2] as const);
  const request = random.oneIn(3) ? { level, tags: random.some(world.knownTags()) } : { level };
  const fault = random.oneIn(3) ? randomFault(random) : "";
  log(`prepare ${JSON.stringify(request)} ${fault}`);
  const before = allocator.hostUsage().preparedBytes;
  setFaults(fault);
  const outcome = await attempt(() => allocator.prepare(request));
  setFaults("");
  const refusal = model.sleepRefusal(request);
  if (outcome.error?.code !== refusal) expectFaultExplains(outcome.error);
  const { preparedBytes } = allocator.hostUsage();
  if (outcome.error && !outcome.error.transitionComplete)
    expectSame("what is prepared after a failure", preparedBytes, before);
  else if (!model.options.spills) expectSame("what is prepared", preparedBytes, model.copiedBytes(request));
};

/** Takes over which of the two legal outcomes a disturbed transition had. Returns whether it has taken place. */
function settleEither(
  world: World,
  transition: Transition,
  outcome: Outcome<SleepReport | WakeReport>,
): boolean {
  if (outcome.error) {
    const { code, transitionComplete } = outcome.error;
    const undoFailed = outcome.error.message.includes("undoing it failed");
    const what = undoFailed ? "not all undone" : "nothing changed";
    world.note(`${code}: ${transitionComplete ? "complete all the same" : what}`);
    if (transitionComplete) apply(world, transition);
    return transitionComplete;
  }
  settle(world, transition, outcome);
  return true;
}

/** One AscendCL call fails: nothing has changed or all is complete, and the same call succeeds once the fault is gone. */
export const faulty: Event = async (world, random, log) => {
  const transition = randomTransition(world, random);
  const fault = randomFault(random);
  log(`${text(transition)} with ${fault}`);
  const refusal = refusalOf(world, transition);
  setFaults(fault);
  const outcome = await attempt(() => call(world, transition));
  setFaults("");
  if (outcome.error?.code !== refusal) expectFaultExplains(outcome.error);
  const complete = settleEither(world, transition, outcome);
  expectPlaces(world);
  if (outcome.error === undefined) return settleContents(world, transition);
  if (!complete) world.compare(random);
  const again = await attempt(() => call(world, transition));
  if (complete) expectOutcome(`${text(transition)} again`, again, undefined);
  else settle(world, transition, again);
  if (complete) expectRestGivenBack(world, transition);
  settleContents(world, transition);
};

/** "Should only giving memory back fail, the next one tries again to give it back", and the repetition was the next one. */
function expectRestGivenBack(world: World, transition: Transition): void {
  expectSame(
    `usage() after ${text(transition)} was complete, and made again,`,
    world.usage(),
    world.model.usage(),
  );
}

/** The state of every buffer, also while memory that could not be given back is still held. */
function expectPlaces(world: World): void {
  for (const { real, model } of world.lives)
    if (real) expectSame("state of a buffer", real.state, stateOf(model.segment));
  expectSame("isSleeping", world.allocator.isSleeping, world.model.isSleeping());
}

/** Two calls fail or all from some call on, so that undoing may fail as well. */
function severeFault(random: Random): string {
  const first = random.magnitude(1, 80);
  if (random.oneIn(3)) return `*:${first}+=${random.pick(faultCodes)}`;
  const second = first + random.magnitude(1, 20);
  return `*:${first}=${random.pick(faultCodes)},*:${second}=${random.pick(faultCodes)}`;
}

/** However little could be undone: once the faults are gone a wake-up brings back all content that there was. */
export const severelyFaulty: Event = async (world, random, log) => {
  const transition = randomTransition(world, random);
  if (world.model.wakeRefusal({})) return log("no room to recover in");
  const fault = severeFault(random);
  log(`${text(transition)} with ${fault}`);
  const refusal = refusalOf(world, transition);
  setFaults(fault);
  const outcome = await attempt(() => call(world, transition));
  setFaults("");
  if (outcome.error?.code !== refusal) expectFaultExplains(outcome.error);
  const complete = settleEither(world, transition, outcome);
  if (outcome.error === undefined) return;
  if (complete) {
    expectPlaces(world);
    const again = await attempt(() => call(world, transition));
    expectOutcome(`${text(transition)} again`, again, undefined);
  }
  const wake = { kind: "wake", request: {} } as const;
  const recovered = await attempt(() => call(world, wake));
  expectOutcome("the wake-up that recovers", recovered, refusalOf(world, wake));
  apply(world, wake);
  expectPlaces(world);
  world.compareContents();
  // On devices that this did not concern, copies whose wait failed may have kept host memory: it goes when there is nothing to do.
  await world.allocator.wakeUp();
  expectRestGivenBack(world, transition);
};

/** Aborted before, at once, or after a moment: the call rejects with nothing changed, or it was too late. */
export const abortedMidway: Event = async (world, random, log) => {
  const transition = randomTransition(world, random);
  const controller = new AbortController();
  const reason = new RangeError("no longer wanted");
  const how = random.pick(["before", "at once", "next turn", "soon", "on progress"] as const);
  log(`${text(transition)}, aborted ${how}`);
  const abort = () => controller.abort(reason);
  if (how === "before") abort();
  let progressLeft = random.between(1, 4);
  const onProgress = () => {
    if (--progressLeft === 0) abort();
  };
  const control = { signal: controller.signal, ...(how === "on progress" ? { onProgress } : {}) };
  const running = attempt(() => call(world, transition, control));
  if (how === "at once") abort();
  if (how === "next turn") setImmediate(abort);
  if (how === "soon") setTimeout(abort, random.between(0, 6));
  const outcome = await running;
  if (outcome.error && outcome.error.code !== refusalOf(world, transition)) {
    expectSame("code of an aborted transition", outcome.error.code, "ABORTED");
    expectSame("cause of an aborted transition", outcome.error.cause, reason);
    expectSame("completeness of an aborted transition", outcome.error.transitionComplete, false);
  }
  settleEither(world, transition, outcome);
  expectPlaces(world);
  if (outcome.value) settleContents(world, transition);
};

/** A callback of the caller's throws. */
export const callbackThrows: Event = async (world, random, log) => {
  const transition = randomTransition(world, random);
  const which = random.pick(["onProgress", "beforeSleep", "afterWake"] as const);
  log(`${text(transition)}, ${which} throws`);
  const cause = new RangeError(which);
  const callback = () => {
    throw cause;
  };
  const remove =
    which === "onProgress" ? () => undefined : world.allocator.onTransition({ [which]: callback });
  const control = which === "onProgress" ? { onProgress: callback } : {};
  const outcome = await attempt(() => call(world, transition, control));
  remove();
  if (outcome.error && outcome.error.code !== refusalOf(world, transition)) {
    expectSame(`code when ${which} throws`, outcome.error.code, "HOOK_FAILED");
    expectSame(`cause when ${which} throws`, outcome.error.cause, cause);
    if (which === "beforeSleep")
      expectSame("completeness when beforeSleep throws", outcome.error.transitionComplete, false);
    if (which === "afterWake")
      expectSame("completeness when afterWake throws", outcome.error.transitionComplete, true);
  }
  settleEither(world, transition, outcome);
  expectPlaces(world);
  if (!outcome.error) settleContents(world, transition);
};

/** Calls made at once take turns, in their order. */
export const atOnce: Event = async (world, random, log) => {
  const transitions = Array.from({ length: random.between(2, 4) }, () => randomTransition(world, random));
  log(transitions.map(text).join(" & "));
  const outcomes = await Promise.all(transitions.map((transition) => attempt(() => call(world, transition))));
  for (const [index, transition] of transitions.entries()) {
    const outcome = outcomes[index];
    if (outcome) settle(world, transition, outcome);
  }
  world.compareContents();
};

// Other calls while a transition runs.

/** What is known while a transition runs, and what is left to be told from its outcome. */
interface Overlap {
  readonly transition: Transition;
  /** The segments there were when it began. */
  readonly segments: readonly ModelSegment[];
  readonly placeBefore: ReadonlyMap<ModelSegment, Place>;
  /** New memory: may be part of the transition or not. */
  readonly added: Live[];
  /** Writes that succeeded, to be made in the model once the transition is. */
  readonly writes: { live: Live; bytes: Uint8Array; offset: number }[];
  /** The least and the most that may be free on each device. */
  readonly free: { least: number; most: number }[];
  /** What holding the device takes of `sleep_persistent` memory. */
  flagBytes: number;
}

function beginOverlap(world: World, transition: Transition): Overlap {
  const { model } = world;
  const before = [0, 1].map((device) => model.free(device));
  const changes = [0, 1].map((device) =>
    model.segments
      .filter((segment) => segment.device === device)
      .reduce((total, segment) => total + released(world, transition, segment), 0),
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

/** Device memory that a transition gives back for a segment, or takes. */
function released(world: World, transition: Transition, segment: ModelSegment): number {
  const after = placeAfter(world, transition, segment);
  if (segment.place === after) return 0;
  if (after === "device") return -segment.sizeBytes;
  return segment.place === "device" ? segment.sizeBytes : 0;
}

const isConcerned = (world: World, { transition, placeBefore }: Overlap, segment: ModelSegment) =>
  !placeBefore.has(segment) || placeAfter(world, transition, segment) !== segment.place;

function noteTaken(overlap: Overlap, segment: ModelSegment): void {
  const free = overlap.free[segment.device];
  if (!free) return;
  free.least -= segment.sizeBytes;
  free.most -= segment.sizeBytes;
}

/** Whether an allocation of new memory may have had this outcome. */
function expectPlausible(overlap: Overlap, device: number, segmentBytes: number, worked: boolean): void {
  const { least = 0, most = 0 } = overlap.free[device] ?? {};
  const plausible = worked ? segmentBytes <= most : segmentBytes > least;
  expectThat(
    plausible,
    `allocating ${segmentBytes} ${worked ? "works" : "fails"} with ${least} to ${most} bytes free`,
  );
}

type OverlapCall = (world: World, random: Random, overlap: Overlap, log: (text: string) => void) => unknown;

const mallocMeanwhile: OverlapCall = (world, random, overlap, log) => {
  if (isCrowded(world, random)) return;
  const sizeBytes = random.magnitude(1, 4 * MiB);
  const tag = random.pick(tags);
  log(`malloc(${sizeBytes}, ${tag})`);
  const outcome = attemptNow(() => world.allocator.malloc(sizeBytes, { tag }));
  if (outcome.error) expectOutcome("malloc meanwhile", outcome, "OUT_OF_DEVICE_MEMORY");
  expectPlausible(overlap, 0, world.model.segmentBytes(sizeBytes), outcome.error === undefined);
  if (outcome.value) takeUp(overlap, world.adopt(outcome.value.ptr, sizeBytes, tag, 0, outcome.value));
};

function takeUp(overlap: Overlap, live: Live): void {
  noteTaken(overlap, live.model.segment);
  overlap.added.push(live);
}

const poolMallocMeanwhile: OverlapCall = (world, random, overlap, log) => {
  if (isCrowded(world, random)) return;
  const sizeBytes = random.magnitude(1, MiB);
  const tag = random.pick(tags);
  log(`memoryPool(${tag}).malloc(${sizeBytes})`);
  const outcome = attemptNow(() => world.allocator.memoryPool(tag).malloc(sizeBytes));
  const known = new Set(world.model.segments);
  if (outcome.error) {
    expectOutcome("pool.malloc meanwhile", outcome, "OUT_OF_DEVICE_MEMORY");
    expectPlausible(overlap, 0, world.model.poolSegmentBytes(sizeBytes), false);
    return;
  }
  if (!outcome.value) return;
  const live = world.adoptPooled(outcome.value);
  const { segment } = live.model;
  expectAlone(world, live.model);
  if (known.has(segment)) {
    expectThat(!segment.sealed || segment.place !== "device", "a buffer in memory whose content is final");
    const awake = segment.place === "device" || isConcerned(world, overlap, segment);
    expectThat(awake, "a buffer in memory that is asleep");
  } else takeUp(overlap, live);
};

const foreignMallocMeanwhile: OverlapCall = async (world, random, overlap, log) => {
  if (isCrowded(world, random)) return;
  const sizeBytes = random.magnitude(1, 4 * MiB);
  const foreign = random.oneIn(2);
  const tag = world.regionTag();
  log(`my_malloc(${sizeBytes}) in ${tag}${foreign ? " on a foreign thread" : ""}`);
  const address = foreign
    ? await world.onForeignThread({ call: "malloc", sizeBytes, device: 0 })
    : world.pluggable.malloc(sizeBytes, 0);
  expectPlausible(overlap, 0, world.model.segmentBytes(sizeBytes), address > 0);
  if (address > 0) takeUp(overlap, world.adopt(address, sizeBytes, tag, 0, undefined));
};

const freeMeanwhile: OverlapCall = async (world, random, overlap, log) => {
  const live = pickLive(world, random);
  if (!live) return;
  log(`free the ${describe(live)}`);
  const { address, sizeBytes, segment } = live.model;
  if (live.real) {
    live.real.free();
    expectSame("state of a buffer that was freed", live.real.state, "freed");
  } else if (random.oneIn(2)) world.pluggable.free(address, sizeBytes, segment.device);
  else await world.onForeignThread({ call: "free", address, sizeBytes, device: segment.device });
  world.forget(live);
  const free = overlap.free[segment.device];
  if (free) free.most += segment.sizeBytes;
};

const accessMeanwhile: OverlapCall = (world, random, overlap, log) => {
  const live = pickLive(world, random, (each) => !isNative(each));
  if (!live?.real) return;
  const { real, model } = live;
  const { offset, count } = randomRange(random, model.sizeBytes, 4096);
  const bytes = random.bytes(count);
  const outcome = attemptNow(() => real.write(bytes, offset));
  log(`write ${count} at ${offset} to the ${describe(live)}: ${outcome.error?.code ?? "done"}`);
  const concerned = isConcerned(world, overlap, model.segment);
  const awakeBefore = model.segment.place === "device";
  const { sealed } = model.segment;
  if (outcome.error) {
    const legal = concerned || !awakeBefore ? ["BUFFER_ASLEEP", "BUFFER_MOVING"] : [];
    if (sealed) legal.push("BUFFER_IMMUTABLE");
    expectThat(legal.includes(outcome.error.code), `a write meanwhile throws ${outcome.error.code}`);
    return;
  }
  expectThat(concerned || awakeBefore, "a write to memory that is asleep succeeds");
  expectThat(!sealed, "a write to final content succeeds");
  if (awakeBefore && overlap.transition.kind === "sleep") world.model.write(model, bytes, offset);
  else overlap.writes.push({ live, bytes, offset });
};

const lookMeanwhile: OverlapCall = (world, random, overlap, log) => {
  log("look");
  for (const { real, model } of world.lives) {
    if (!real) continue;
    const legal = ["moving", stateOf(model.segment)];
    const after = placeAfter(world, overlap.transition, model.segment);
    const names = { device: "mapped", host: "offloaded", nowhere: "discarded" } as const;
    if (isConcerned(world, overlap, model.segment)) legal.push(names[after]);
    else legal.shift();
    expectThat(
      legal.includes(real.state),
      `a buffer is ${real.state} meanwhile, where only ${legal} are legal`,
    );
  }
  const tag = random.pick(world.knownTags());
  expectSame(
    `getCurrentUsage("${tag}") meanwhile`,
    world.allocator.getCurrentUsage(tag),
    world.model.currentUsage(tag) + (tag === "sleep_persistent" ? overlap.flagBytes : 0),
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

async function aMoment(random: Random): Promise<void> {
  const howLong = random.pick(["a turn", "a turn", "a while", "none"] as const);
  if (howLong === "a turn") await new Promise(setImmediate);
  if (howLong === "a while") await Bun.sleep(random.between(0, 2));
}

/** Allocations, frees, writes and looks, here and on another thread, while a transition runs. */
export const overlapped: Event = async (world, random, log) => {
  const transition = randomTransition(world, random);
  log(`${text(transition)} {`);
  const overlap = beginOverlap(world, transition);
  const controller = new AbortController();
  const abort = random.oneIn(5);
  const running = attempt(() => call(world, transition, { signal: controller.signal }));
  for (let count = random.between(1, 5); count > 0; count--) {
    await aMoment(random);
    await random.pick(overlapCalls)(world, random, overlap, log);
  }
  if (abort) controller.abort();
  log(abort ? "abort }" : "}");
  const outcome = await running;
  expectLegal(overlap, outcome.error, abort);
  finishOverlap(world, overlap, outcome);
  if (!outcome.error) world.compareContents();
};

/** As `overlapped`, with a sleep that cannot go on before the device is done: all it moves is moving for certain. */
export const held: Event = async (world, random, log) => {
  const transition = randomTransition(world, random);
  const flagBytes = 2 * MiB;
  if (transition.kind !== "sleep" || world.model.free(0) < flagBytes) return log("nothing to hold");
  const { moving } = world.model.sleepMoves(transition.request);
  const waits = moving.some((segment) => segment.place === "device" && segment.device === 0);
  if (!waits || refusalOf(world, transition)) return log("nothing to wait for");
  log(`${text(transition)} while the device is held {`);
  const overlap = beginOverlap(world, transition);
  overlap.flagBytes = flagBytes;
  const free = overlap.free[0];
  if (free) free.least -= flagBytes;
  const device = holdDevice();
  const controller = new AbortController();
  const running = attempt(() => call(world, transition, { signal: controller.signal }));
  const abort = random.oneIn(3);
  try {
    const own = world.lives.filter((live) => moving.includes(live.model.segment) && !isNative(live));
    while (own.some(({ real }) => real?.state !== "moving")) await new Promise(setImmediate);
    for (let count = random.between(1, 6); count > 0; count--)
      await random.pick(heldCalls)(world, random, overlap, log);
    if (abort) controller.abort();
  } finally {
    device.release();
  }
  log(abort ? "abort }" : "}");
  const outcome = await running;
  expectLegal(overlap, outcome.error, abort);
  expectThat(!abort || outcome.error !== undefined, "a sleep that was aborted while it waited has gone on");
  finishOverlap(world, overlap, outcome);
};

/** Freeing what does not move would wait for the device, on this very thread. */
const freeMoving: OverlapCall = (world, random, _, log) => {
  const live = pickLive(world, random, ({ real }) => real?.state === "moving");
  if (!live?.real) return;
  log(`free the ${describe(live)}`);
  live.real.free();
  expectSame("state of a buffer that was freed", live.real.state, "freed");
  expectOutcome(
    "free a second time",
    attemptNow(() => live.real?.free()),
    "BUFFER_FREED",
  );
  world.forget(live);
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

/** Takes over the outcome, also where new memory is: mapped, or where the transition leaves memory of its tag. */
function finishOverlap(world: World, overlap: Overlap, outcome: Outcome<SleepReport | WakeReport>): void {
  const complete = outcome.error === undefined;
  if (complete) apply(world, overlap.transition, overlap.segments);
  for (const { segment } of overlap.added.map((live) => live.model)) {
    // The buffer that the segment came with may be gone again, and another one be in it.
    const live = world.lives.find(({ model }) => model.segment === segment);
    if (live === undefined) continue;
    const place = world.placeOf(live);
    const legal = ["device", ...(complete ? [placeAfter(world, overlap.transition, segment)] : [])];
    expectThat(legal.includes(place), `new memory of ${segment.tag} is on the ${place} afterwards`);
    world.model.place(segment, place);
  }
  for (const { live, bytes, offset } of overlap.writes)
    if (world.lives.includes(live) && live.model.segment.place === "device")
      world.model.write(live.model, bytes, offset);
}

// Closing.

async function leaveAll(regions: World["regions"]): Promise<void> {
  for (const region of regions) await region.leave();
}

/** Closes, with memory left or without, with a transition running or with a fault, and opens anew. */
export const closeAndReopen: Event = async (world, random, log) => {
  const how = random.pick(["released", "with memory", "with a transition running", "with a fault"] as const);
  const regionsOutlive = random.oneIn(2);
  log(`close ${how}${regionsOutlive ? " within regions" : ""}`);
  const { regions } = world;
  if (!regionsOutlive) await leaveAll(regions);
  const reals = world.lives.flatMap(({ real }) => real ?? []);
  if (how === "released") releaseAll(world);
  const transition = randomTransition(world, random);
  const running = how === "with a transition running" ? attempt(() => call(world, transition)) : undefined;
  if (random.oneIn(2)) await aMoment(random);
  if (how === "with a fault") await closeWithFault(world, random, log);
  await world.allocator.close();
  const outcome = await running;
  if (outcome?.error && outcome.error.code !== refusalOf(world, transition))
    expectSame("code of a transition cut short by close()", outcome.error.code, "CLOSED");
  world.expectNothingHeld();
  for (const real of reals) expectSame("state after close()", real.state, "freed");
  await world.open(random, log);
  if (regionsOutlive) await leaveAll(regions);
};

/** A close that fails leaves an allocator that can do nothing but be closed again. */
async function closeWithFault(world: World, random: Random, log: (text: string) => void): Promise<void> {
  const fault = randomFault(random);
  log(fault);
  setFaults(fault);
  const outcome = await attempt(() => world.allocator.close());
  setFaults("");
  world.note(outcome.error ? "close(): failed" : "close(): unharmed");
  if (outcome.error === undefined) return;
  expectFaultExplains(outcome.error);
  expectOutcome(
    "malloc after a close that failed",
    attemptNow(() => world.allocator.malloc(1)),
    "CLOSED",
  );
  // An engine's threads do not know; what they take goes with the close that works.
  world.pluggable.malloc(1, 0);
}

function releaseAll(world: World): void {
  for (const { real, model } of world.lives) {
    if (real) real.free();
    else world.pluggable.free(model.address, model.sizeBytes, model.segment.device);
  }
  expectSame("usage() with all released", world.allocator.usage(), {});
}
