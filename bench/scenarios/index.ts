/** Every scenario in the order of a run. Each scenario runs in its own process. */

import { GiB, MiB } from "../layout.ts";
import type { Findings } from "../schema.ts";
import type { Context } from "../session.ts";
import { cold } from "./cold.ts";
import { eventLoop } from "./event-loop.ts";
import { fileBacking } from "./file-backing.ts";
import { firstSleep } from "./first-sleep.ts";
import { firstToken, modelledDevice } from "./first-token.ts";
import { hostMemory } from "./host-memory.ts";
import { loading } from "./loading.ts";
import { modelledFirstSleep, modelledLink } from "./modelled-first-sleep.ts";
import { modelsLink, modelsOnDevice, modelsOnTimingModel } from "./models.ts";
import { poolOverhead } from "./pool-overhead.ts";
import { preload } from "./preload.ts";
import { prepared } from "./prepared.ts";
import { proxy } from "./proxy.ts";
import { runtimes } from "./runtimes.ts";
import { segmentCount } from "./segment-count.ts";
import { segmentLatency } from "./segment-latency.ts";

export interface Scenario {
  readonly measure: (context: Context) => Promise<Findings>;
  /** How much of the emulated device's memory stays in RAM. A real device ignores this. */
  readonly residentBytes: number;
  /** The emulator's timing model. A real device ignores this. */
  readonly timing?: string;
}

/** All device memory of a scenario, so that measurements do not include first touches of memory. */
const maxDeviceBytes = 4 * GiB + 64 * MiB;

export const scenarios: Readonly<Record<string, Scenario>> = {
  "modelled models": { measure: modelsOnTimingModel, residentBytes: 0, timing: modelsLink },
  models: { measure: modelsOnDevice, residentBytes: maxDeviceBytes },
  "pool overhead": { measure: poolOverhead, residentBytes: 0 },
  "segment latency": { measure: segmentLatency, residentBytes: maxDeviceBytes },
  "segment count": { measure: segmentCount, residentBytes: 0 },
  prepared: { measure: prepared, residentBytes: maxDeviceBytes },
  "first sleep": { measure: firstSleep, residentBytes: maxDeviceBytes },
  cold: { measure: cold, residentBytes: maxDeviceBytes },
  "modelled first sleep": { measure: modelledFirstSleep, residentBytes: 0, timing: modelledLink },
  "first token": { measure: firstToken, residentBytes: 0, timing: modelledDevice },
  "file backing": { measure: fileBacking, residentBytes: maxDeviceBytes },
  loading: { measure: loading, residentBytes: maxDeviceBytes },
  "event loop": { measure: eventLoop, residentBytes: maxDeviceBytes },
  "host memory": { measure: hostMemory, residentBytes: maxDeviceBytes },
  preload: { measure: preload, residentBytes: maxDeviceBytes },
  runtimes: { measure: runtimes, residentBytes: maxDeviceBytes },
  proxy: { measure: proxy, residentBytes: maxDeviceBytes },
};
