/** Closing the allocator in every state, and opening it again. */

import { setFaults } from "../support/device.ts";
import { attempt, attemptNow, expectSame, type Harness } from "./harness.ts";
import { type Event, expectFaultExplains, expectOutcome, randomFault } from "./memory-events.ts";
import { aMoment } from "./overlap-events.ts";
import type { Random } from "./random.ts";
import { call, randomTransition, refusalOf } from "./transition.ts";

/** Closes with or without memory, during a transition or with a fault, and opens again. */
export const closeAndReopen: Event = async (harness, random, log) => {
  const how = random.pick(["released", "with memory", "with a transition running", "with a fault"] as const);
  const regionsOutlive = random.oneIn(2);
  log(`close ${how}${regionsOutlive ? " within regions" : ""}`);
  const { regions } = harness;
  if (!regionsOutlive) await leaveAll(regions);
  const reals = harness.lives.flatMap(({ real }) => real ?? []);
  if (how === "released") releaseAll(harness);
  const transition = randomTransition(harness, random);
  const running = how === "with a transition running" ? attempt(() => call(harness, transition)) : undefined;
  if (random.oneIn(2)) await aMoment(random);
  if (how === "with a fault") await closeWithFault(harness, random, log);
  await harness.allocator.close();
  const outcome = await running;
  if (outcome?.error && outcome.error.code !== refusalOf(harness, transition))
    expectSame("code of a transition cut short by close()", outcome.error.code, "CLOSED");
  harness.expectNothingHeld();
  for (const real of reals) expectSame("state after close()", real.state, "freed");
  await harness.open(random, log);
  if (regionsOutlive) await leaveAll(regions);
};

async function leaveAll(regions: Harness["regions"]): Promise<void> {
  for (const region of regions) await region.leave();
}

/** After a failed close the allocator accepts only another close. */
async function closeWithFault(harness: Harness, random: Random, log: (text: string) => void): Promise<void> {
  const fault = randomFault(random);
  log(fault);
  setFaults(fault);
  const outcome = await attempt(() => harness.allocator.close());
  setFaults("");
  harness.note(outcome.error ? "close(): failed" : "close(): unharmed");
  if (outcome.error === undefined) return;
  expectFaultExplains(outcome.error);
  expectOutcome(
    "malloc after a close that failed",
    attemptNow(() => harness.allocator.malloc(1)),
    "CLOSED",
  );
  // Threads of an engine may still allocate; the close that succeeds releases their memory.
  harness.pluggable.malloc(1, 0);
}

function releaseAll(harness: Harness): void {
  for (const { real, model } of harness.lives) {
    if (real) real.free();
    else harness.pluggable.free(model.address, model.sizeBytes, model.segment.device);
  }
  expectSame("usage() with all released", harness.allocator.usage(), {});
}
