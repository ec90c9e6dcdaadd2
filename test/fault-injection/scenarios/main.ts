/**
 * Runs the scenario that the first argument names, then asserts that camem misused nothing and left nothing of AscendCL.
 * strict-runtime.test.ts starts it with CAMEM_ACL_LIBRARY set to the strict runtime.
 */

import { assertNoMisuse, assertNothingAlive } from "../strict-runtime.ts";
import * as addressReuse from "./address-reuse.ts";
import * as faults from "./faults.ts";
import * as files from "./files.ts";
import * as hostEngine from "./host-engine.ts";
import * as lifecycle from "./lifecycle.ts";
import * as threads from "./threads.ts";

const scenarios: Record<string, () => Promise<void>> = {
  lifecycle: lifecycle.lifecycle,
  reopen: lifecycle.reopen,
  abortTransitions: lifecycle.abortTransitions,
  noDevice: lifecycle.noDevice,
  shortDeviceMemory: lifecycle.shortDeviceMemory,
  retryAfterFailure: faults.retryAfterFailure,
  everyCallFailsOnce: faults.everyCallFailsOnce,
  everyLaterCallFails: faults.everyLaterCallFails,
  everyPairOfCallsFails: faults.everyPairOfCallsFails,
  synchronizeNotices: faults.synchronizeNotices,
  copyWaitFails: faults.copyWaitFails,
  undoFails: faults.undoFails,
  hostEngineFirst: () => hostEngine.hostEngineFirst(),
  hostEngineWithConfiguration: () => hostEngine.hostEngineFirst(process.env["STRICT_CONFIGURATION"]),
  hostEngineLater: hostEngine.hostEngineLater,
  hostEngineResetsDevice: hostEngine.hostEngineResetsDevice,
  contextQueryFails: hostEngine.contextQueryFails,
  contextRefusedOnce: hostEngine.contextRefusedOnce,
  primaryContextOutlivesSession: hostEngine.primaryContextOutlivesSession,
  otherThreadAllocates: threads.otherThreadAllocates,
  staleContexts: threads.staleContexts,
  closeFailsHalfway: threads.closeFailsHalfway,
  fileBackedContent: files.fileBackedContent,
  fileCopyWaitFails: files.fileCopyWaitFails,
  reuseAfterFailedFree: addressReuse.reuseAfterFailedFree,
  reuseAfterFreeWhileMoving: addressReuse.reuseAfterFreeWhileMoving,
  reuseAfterFailedClose: addressReuse.reuseAfterFailedClose,
};

/** In these the host engine breaks the rules, so calls of camem may count as misuse. */
const misusedByHostEngine = new Set(["hostEngineResetsDevice"]);

const name = process.argv[2] ?? "";
const scenario = scenarios[name];
if (scenario === undefined) throw new Error(`there is no scenario "${name}"`);
await scenario();
if (!misusedByHostEngine.has(name)) assertNoMisuse();
assertNothingAlive();
