/** What the verbs of a controller return. */

import type { SleepLevel } from "../../policy/tag-policies.ts";
import type { SleepReport, WakeReport } from "../../transition/reports.ts";

/** The result of `SleepController.sleep`. */
export interface EngineSleepResult {
  /** The level that the engine sleeps at now. */
  readonly level: SleepLevel;
  /** True when there was nothing to do. */
  readonly alreadySleeping: boolean;
  /** What the allocator did; null when it was not called. */
  readonly report: SleepReport | null;
}

/** The result of `SleepController.wakeUp`. */
export interface EngineWakeResult {
  /** The requested tags, or null for all. */
  readonly tags: readonly string[] | null;
  /** True when there was nothing to do. */
  readonly alreadyAwake: boolean;
  /** What the allocator did; null when it was not called. */
  readonly report: WakeReport | null;
}

/** Free and total bytes of one device, for all processes together. */
export interface DeviceMemory {
  /** The device number. */
  readonly device: number;
  /** Free bytes. */
  readonly freeBytes: number;
  /** Bytes in all. */
  readonly totalBytes: number;
}
