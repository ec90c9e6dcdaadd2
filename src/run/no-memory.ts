/** What an engine without memory reports. */

import type { HostBudget } from "../memory/host-budget.ts";
import type { HostUsage } from "../memory/usage.ts";
import type { TransitionPlan } from "../transition/preflight.ts";

const noBudget: HostBudget = { sizeBytes: null, source: "unknown", path: null };

/** The plan of a transition that has nothing to do. */
export const emptyPlan: TransitionPlan = {
  tags: {},
  devices: [],
  freed: [],
  host: { neededBytes: 0, freeBytes: null, budget: noBudget },
  spill: null,
  fits: true,
};

export const noHostUsage: HostUsage = {
  pageLockedBytes: 0,
  freeBytes: 0,
  preparedBytes: 0,
  stagingBytes: 0,
  pageableBytes: 0,
  budget: noBudget,
};
