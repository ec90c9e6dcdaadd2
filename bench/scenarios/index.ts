/** Every scenario, in the order in which they run, each in a process of its own. */

import type { Findings } from "../schema.ts";
import { type Context, GiB, MiB } from "../session.ts";
import { cold } from "./cold.ts";
import { counts } from "./counts.ts";
import { eventLoop } from "./event-loop.ts";
import { file } from "./file.ts";
import { first } from "./first.ts";
import { hostMemory } from "./host-memory.ts";
import { latency } from "./latency.ts";
import { pools } from "./pools.ts";
import { resident } from "./resident.ts";

export interface Scenario {
  readonly measure: (context: Context) => Promise<Findings>;
  /** How much of the emulated device's memory is resident; a real device's is all there. */
  readonly residentBytes: number;
}

/** All that a scenario has on the device at once, so that what it measures are copies and not first touches. */
const largest = 4 * GiB + 64 * MiB;

export const scenarios: Readonly<Record<string, Scenario>> = {
  pools: { measure: pools, residentBytes: 0 },
  latency: { measure: latency, residentBytes: largest },
  counts: { measure: counts, residentBytes: 0 },
  resident: { measure: resident, residentBytes: largest },
  first: { measure: first, residentBytes: largest },
  cold: { measure: cold, residentBytes: largest },
  file: { measure: file, residentBytes: largest },
  "event loop": { measure: eventLoop, residentBytes: largest },
  "host memory": { measure: hostMemory, residentBytes: largest },
};
