/** What works on the shim of this process and on that of an engine in another process. */

import { runtimeCalls } from "./attachment.ts";
import type { SharedExports } from "./exports.ts";
import { hostCalls } from "./host.ts";
import { exports } from "./library.ts";
import { awaitPlan, planCalls, streamWait, submitOrderedPlan } from "./plans.ts";
import { tableCalls } from "./table.ts";
import { tagCalls } from "./tags.ts";

/** The calls of one shim, by the exports that reach it. */
export const callsOf = (exports: () => SharedExports) => ({
  ...runtimeCalls(exports),
  ...tagCalls(exports),
  ...tableCalls(exports),
  ...hostCalls(exports),
  ...planCalls(exports),
});

/** One shim: that of this process, or that of an engine in another process. */
export interface Native extends ReturnType<typeof callsOf> {
  /** Returns when a plan is done; blocks the event loop for `microseconds` at most. Absent in another process. */
  readonly awaitPlan?: typeof awaitPlan;
  /** Absent in another process. */
  readonly submitOrderedPlan?: typeof submitOrderedPlan;
  /** Absent in another process. */
  readonly streamWait?: typeof streamWait;
}

/** The shim of this process. */
export const localNative: Native = { ...callsOf(exports), awaitPlan, submitOrderedPlan, streamWait };
