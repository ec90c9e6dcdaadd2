/** Sleeps and wake-ups: undisturbed, with faults, aborted, with hooks that throw, and several at once. */

import { setFaults } from "../support/device.ts";
import { attempt, expectSame, expectThat, type Harness } from "./harness.ts";
import { type Event, expectFaultExplains, expectOutcome, faultCodes, randomFault } from "./memory-events.ts";
import type { Random } from "./random.ts";
import {
  apply,
  call,
  expectPlaces,
  randomTransition,
  refusalOf,
  settle,
  settleContents,
  settleEither,
  type Transition,
  text,
} from "./transition.ts";

export const plain: Event = async (harness, random, log) => {
  const transition = randomTransition(harness, random);
  log(text(transition));
  if (random.oneIn(3)) expectPlan(harness, transition);
  settle(harness, transition, await attempt(() => call(harness, transition)));
  settleContents(harness, transition);
};

function expectPlan(harness: Harness, transition: Transition): void {
  const { allocator, model } = harness;
  const { kind, request } = transition;
  const real = kind === "sleep" ? allocator.plan("sleep", request) : allocator.plan("wake", request);
  const devices = real.devices.toSorted((a, b) => a.device - b.device);
  const freed = real.freed.toSorted((a, b) => a.device - b.device);
  const expected = kind === "sleep" ? model.sleepPlan(request) : model.wakePlan(request);
  if (!model.options.spills) {
    expectSame(`plan of ${text(transition)}`, { ...real, devices, freed }, expected);
    return;
  }
  const { host, spill, ...rest } = real;
  const neededBytes = host.neededBytes + (spill?.neededBytes ?? 0);
  expectSame(
    `plan of ${text(transition)}`,
    { ...rest, devices, freed, neededBytes },
    {
      tags: expected.tags,
      devices: expected.devices,
      freed: expected.freed,
      fits: expected.fits,
      neededBytes: expected.host.neededBytes,
    },
  );
}

/** Prepares host memory for a sleep that may follow. */
export const prepare: Event = async (harness, random, log) => {
  const { model, allocator } = harness;
  const level = random.pick([0, 1, 1, 2] as const);
  const request = random.oneIn(3) ? { level, tags: random.some(harness.knownTags()) } : { level };
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
  else if (model.options.pageable && fault !== "")
    expectThat(
      model.options.spills || preparedBytes <= model.copiedBytes(request),
      "more is prepared than needed",
    );
  else if (!model.options.spills) expectSame("what is prepared", preparedBytes, model.copiedBytes(request));
};

/** One AscendCL call fails: the transition changed nothing or is complete, and succeeds when repeated without the fault. */
export const faulty: Event = async (harness, random, log) => {
  const transition = randomTransition(harness, random);
  const fault = randomFault(random);
  log(`${text(transition)} with ${fault}`);
  const refusal = refusalOf(harness, transition);
  setFaults(fault);
  const outcome = await attempt(() => call(harness, transition));
  setFaults("");
  if (outcome.error?.code !== refusal) expectFaultExplains(outcome.error);
  const complete = settleEither(harness, transition, outcome);
  expectPlaces(harness);
  if (outcome.error === undefined) return settleContents(harness, transition);
  if (!complete) harness.compare(random);
  const again = await attempt(() => call(harness, transition));
  if (complete) expectOutcome(`${text(transition)} again`, again, undefined);
  else settle(harness, transition, again);
  if (complete) expectRestGivenBack(harness, transition);
  settleContents(harness, transition);
};

/** When only releasing memory failed, the next transition releases it; the repetition was that transition. */
function expectRestGivenBack(harness: Harness, transition: Transition): void {
  expectSame(
    `usage() after ${text(transition)} was complete, and made again,`,
    harness.usage(),
    harness.model.usage(),
  );
}

/** Two calls fail, or all calls from one on, so undoing may fail too. */
function severeFault(random: Random): string {
  const first = random.magnitude(1, 80);
  if (random.oneIn(3)) return `*:${first}+=${random.pick(faultCodes)}`;
  const second = first + random.magnitude(1, 20);
  return `*:${first}=${random.pick(faultCodes)},*:${second}=${random.pick(faultCodes)}`;
}

/** After any incomplete undo, a wake-up without faults restores all content. */
export const severelyFaulty: Event = async (harness, random, log) => {
  const transition = randomTransition(harness, random);
  if (harness.model.wakeRefusal({})) return log("no room to recover in");
  const fault = severeFault(random);
  log(`${text(transition)} with ${fault}`);
  const refusal = refusalOf(harness, transition);
  setFaults(fault);
  const outcome = await attempt(() => call(harness, transition));
  setFaults("");
  if (outcome.error?.code !== refusal) expectFaultExplains(outcome.error);
  const complete = settleEither(harness, transition, outcome);
  if (outcome.error === undefined) return;
  if (complete) {
    expectPlaces(harness);
    const again = await attempt(() => call(harness, transition));
    expectOutcome(`${text(transition)} again`, again, undefined);
  }
  const wake = { kind: "wake", request: {} } as const;
  const recovered = await attempt(() => call(harness, wake));
  expectOutcome("the wake-up that recovers", recovered, refusalOf(harness, wake));
  apply(harness, wake);
  expectPlaces(harness);
  harness.compareContents();
  // Failed waits may have kept host memory on other devices; a wake-up without work releases it.
  await harness.allocator.wakeUp();
  expectRestGivenBack(harness, transition);
};

/** Aborts before, at once, or after a moment: the call rejects and changes nothing, or the abort is too late. */
export const abortedMidway: Event = async (harness, random, log) => {
  const transition = randomTransition(harness, random);
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
  const running = attempt(() => call(harness, transition, control));
  if (how === "at once") abort();
  if (how === "next turn") setImmediate(abort);
  if (how === "soon") setTimeout(abort, random.between(0, 6));
  const outcome = await running;
  if (outcome.error && outcome.error.code !== refusalOf(harness, transition)) {
    expectSame("code of an aborted transition", outcome.error.code, "ABORTED");
    expectSame("cause of an aborted transition", outcome.error.cause, reason);
    expectSame("completeness of an aborted transition", outcome.error.transitionComplete, false);
  }
  settleEither(harness, transition, outcome);
  expectPlaces(harness);
  if (outcome.value) settleContents(harness, transition);
};

/** A hook or `onProgress` throws. */
export const callbackThrows: Event = async (harness, random, log) => {
  const transition = randomTransition(harness, random);
  const which = random.pick(["onProgress", "beforeSleep", "beforeWake", "afterWake"] as const);
  log(`${text(transition)}, ${which} throws`);
  const cause = new RangeError(which);
  const callback = () => {
    throw cause;
  };
  const remove =
    which === "onProgress" ? () => undefined : harness.allocator.onTransition({ [which]: callback });
  const control = which === "onProgress" ? { onProgress: callback } : {};
  const outcome = await attempt(() => call(harness, transition, control));
  remove();
  if (outcome.error && outcome.error.code !== refusalOf(harness, transition)) {
    expectSame(`code when ${which} throws`, outcome.error.code, "HOOK_FAILED");
    expectSame(`cause when ${which} throws`, outcome.error.cause, cause);
    if (which === "beforeSleep" || which === "beforeWake")
      expectSame(`completeness when ${which} throws`, outcome.error.transitionComplete, false);
    if (which === "afterWake")
      expectSame("completeness when afterWake throws", outcome.error.transitionComplete, true);
  }
  settleEither(harness, transition, outcome);
  expectPlaces(harness);
  if (!outcome.error) settleContents(harness, transition);
};

/** Transitions called at once run one after the other, in their order. */
export const atOnce: Event = async (harness, random, log) => {
  const transitions = Array.from({ length: random.between(2, 4) }, () => randomTransition(harness, random));
  log(transitions.map(text).join(" & "));
  const outcomes = await Promise.all(
    transitions.map((transition) => attempt(() => call(harness, transition))),
  );
  for (const [index, transition] of transitions.entries()) {
    const outcome = outcomes[index];
    if (outcome) settle(harness, transition, outcome);
  }
  harness.compareContents();
};
