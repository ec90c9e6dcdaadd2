/** Reports of transitions that no allocator has run. */

import type { SleepReport, WakeReport } from "../transition/reports.ts";

const durations = {
  totalMs: 0,
  waitingMs: 0,
  preparingMs: 0,
  mappingMs: 0,
  copyingMs: 0,
  verifyingMs: 0,
  releasingMs: 0,
};

export function sleepReport(level: 0 | 1 | 2, freedBytes: number, alreadySleeping: boolean): SleepReport {
  const none = { offloadedBytes: 0, copiedBytes: 0, keptBytes: 0, spilledBytes: 0, pageableBytes: 0 };
  return { level, ...none, discardedBytes: freedBytes, freedBytes, alreadySleeping, durations };
}

export function wakeReport(restoredBytes: number, alreadyAwake: boolean): WakeReport {
  return {
    restoredBytes,
    remappedBytes: 0,
    zeroedBytes: 0,
    lostTags: [],
    stillAsleep: [],
    alreadyAwake,
    durations,
  };
}
