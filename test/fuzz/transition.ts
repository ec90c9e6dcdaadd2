/** Random transitions, and their comparison with the model. */

import type { SleepReport, WakeReport } from "camem";
import { expectSame, expectThat, type Harness, type Outcome, stateOf } from "./harness.ts";
import { expectOutcome } from "./memory-events.ts";
import type { ModelSegment, Place, SleepRequest, WakeRequest } from "./model.ts";
import type { Random } from "./random.ts";

export type Transition =
  | { readonly kind: "sleep"; readonly request: SleepRequest }
  | {
      readonly kind: "wake";
      readonly request: WakeRequest;
      /** Changes nothing that the model knows. */
      readonly order?: "loaded" | string[];
    };

export function randomTransition(harness: Harness, random: Random): Transition {
  const known = harness.knownTags();
  const only = random.oneIn(3) ? { tags: random.some(known) } : {};
  const asleep = harness.model.isSleeping();
  if (random.oneIn(10) ? !asleep : asleep) {
    const zero = random.oneIn(4) ? { zero: random.oneIn(2) } : {};
    if (random.below(3) > 0)
      return { kind: "wake", request: { ...only, ...zero }, ...randomOrder(random, only.tags ?? known) };
  }
  if (random.oneIn(3))
    return { kind: "sleep", request: { ...only, offloadTags: random.some(known).slice(0, 3) } };
  const level = random.oneIn(4) ? {} : { level: random.pick([0, 1, 1, 1, 2, 2] as const) };
  return { kind: "sleep", request: { ...only, ...level } };
}

function randomOrder(random: Random, tags: readonly string[]): { order?: "loaded" | string[] } {
  if (random.oneIn(4)) return { order: "loaded" };
  const order = random.oneIn(2) ? random.some(tags) : [];
  return order.length > 0 ? { order } : {};
}

export function text(transition: Transition): string {
  const { kind, request } = transition;
  const order = kind === "wake" && transition.order ? ` in the order ${transition.order}` : "";
  return `${kind} ${JSON.stringify(request)}${order}`;
}

/** Options of both calls beside the request. */
export interface Control {
  readonly signal?: AbortSignal;
  readonly onProgress?: () => void;
}

export function call(
  harness: Harness,
  transition: Transition,
  control: Control = {},
): Promise<SleepReport | WakeReport> {
  if (transition.kind === "sleep") return harness.allocator.sleep({ ...transition.request, ...control });
  const { request, order } = transition;
  const wake = harness.allocator.wakeUp({ ...request, ...(order && { order }), ...control });
  // It ends as the wake-up does.
  if (Array.isArray(order)) wake.ready(order).catch(() => undefined);
  return wake;
}

/** A report without what the model does not know, and with sorted tags, whose order is not guaranteed. */
function comparable(report: SleepReport | WakeReport): unknown {
  const { durations: _, ...rest } = report;
  if (!("lostTags" in rest)) {
    const { spilledBytes: __, pageableBytes: ___, ...sleep } = rest;
    return sleep;
  }
  return {
    ...rest,
    lostTags: rest.lostTags.toSorted(),
    stillAsleep: rest.stillAsleep.toSorted(),
  };
}

export const refusalOf = ({ model }: Harness, { kind, request }: Transition) =>
  kind === "sleep" ? model.sleepRefusal(request) : model.wakeRefusal(request);

const reportOf = ({ model }: Harness, { kind, request }: Transition): unknown =>
  kind === "sleep" ? model.sleepReport(request) : model.wakeReport(request);

export function apply(
  { model }: Harness,
  { kind, request }: Transition,
  among?: readonly ModelSegment[],
): void {
  if (kind === "sleep") model.sleep(request, among);
  else model.wake(request, among);
}

export function placeAfter({ model }: Harness, { kind, request }: Transition, segment: ModelSegment): Place {
  return kind === "sleep" ? model.placeAfterSleep(segment, request) : model.placeAfterWake(segment, request);
}

/** New backups are where the options permit them to be. */
function expectPermittedPlaces({ model }: Harness, { spilledBytes, pageableBytes }: SleepReport): void {
  const { spills, pageable } = model.options;
  expectThat(spills || spilledBytes === 0, "a sleep reports that it spilled, without a folder");
  expectThat(pageable || pageableBytes === 0, "a sleep reports ordinary memory, without the option");
}

/** Compares the outcome of an undisturbed transition with the model, and applies it. */
export function settle(
  harness: Harness,
  transition: Transition,
  outcome: Outcome<SleepReport | WakeReport>,
): void {
  const refusal = refusalOf(harness, transition);
  expectOutcome(text(transition), outcome, refusal);
  if (refusal) harness.note(`refused: ${refusal}`);
  if (outcome.value === undefined) return;
  expectSame(`report of ${text(transition)}`, comparable(outcome.value), reportOf(harness, transition));
  if ("copiedBytes" in outcome.value) expectPermittedPlaces(harness, outcome.value);
  apply(harness, transition);
}

export function settleContents(harness: Harness, transition: Transition): void {
  if (transition.kind === "wake") harness.compareContents();
}

/** Applies whichever legal outcome a disturbed transition had. Returns whether it completed. */
export function settleEither(
  harness: Harness,
  transition: Transition,
  outcome: Outcome<SleepReport | WakeReport>,
): boolean {
  if (outcome.error) {
    const { code, transitionComplete } = outcome.error;
    const undoFailed = outcome.error.message.includes("undoing it failed");
    const what = undoFailed ? "not all undone" : "nothing changed";
    harness.note(`${code}: ${transitionComplete ? "complete all the same" : what}`);
    if (transitionComplete) apply(harness, transition);
    return transitionComplete;
  }
  settle(harness, transition, outcome);
  return true;
}

/** Compares the state of every buffer, even while unreleased memory is held. */
export function expectPlaces(harness: Harness): void {
  for (const { real, model } of harness.lives)
    if (real) expectSame("state of a buffer", real.state, stateOf(model.segment));
  expectSame("isSleeping", harness.allocator.isSleeping, harness.model.isSleeping());
}
