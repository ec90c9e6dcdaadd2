/** The metrics that are read when they are scraped. */

import type { TagUsage } from "../memory/usage.ts";
import type { EngineState, RequestCounts } from "../server/engine/events.ts";
import type { EngineSnapshot, Snapshot } from "./snapshot.ts";

export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface ScrapedMetric {
  readonly name: string;
  readonly help: string;
  readonly type: "gauge" | "counter";
  readonly labelNames: readonly string[];
  readonly samples: (snapshot: Snapshot) => readonly Sample[];
}

const states: readonly EngineState[] = [
  "awake",
  "paused",
  "falling-asleep",
  "asleep",
  "waking",
  "awaiting-weights",
  "failed",
];

/** vLLM's names. As there, all are 0 while the engine sleeps at level 0, and a transition counts once it has ended. */
type SleepState = "awake" | "weights_offloaded" | "discard_all";

function sleepStateOf({ status: { level, awaitingTags } }: EngineSnapshot): SleepState | undefined {
  // Weights that are awake without their content serve nobody: until they are loaded they are discarded still.
  if (level === 2 || (level === null && awaitingTags.length > 0)) return "discard_all";
  if (level === null) return "awake";
  return level === 1 ? "weights_offloaded" : undefined;
}

/** One sample for each value of `label`: 1 for that which `current` tells, 0 for the others. */
function stateSet<T extends string>(
  label: string,
  values: readonly T[],
  current: (engine: EngineSnapshot) => T | undefined,
  labels: Readonly<Record<string, string>> = {},
): ScrapedMetric["samples"] {
  return ({ engines }) =>
    engines.flatMap((engine) => {
      const is = current(engine);
      return values.map((value) => ({
        labels: { ...labels, model_name: engine.status.engine, [label]: value },
        value: value === is ? 1 : 0,
      }));
    });
}

const engineStates: readonly ScrapedMetric[] = [
  {
    name: "vllm:engine_sleep_state",
    help: "1 for the sleep state that the engine is in",
    type: "gauge",
    labelNames: ["engine", "model_name", "sleep_state"],
    // vLLM numbers the replicas of a model; here there is one.
    samples: stateSet("sleep_state", ["awake", "weights_offloaded", "discard_all"], sleepStateOf, {
      engine: "0",
    }),
  },
  {
    name: "camem_engine_state",
    help: "1 for the state that the engine is in; requests are admitted in awake alone",
    type: "gauge",
    labelNames: ["model_name", "state"],
    samples: stateSet("state", states, ({ status }) => status.state),
  },
];

function ofTags(name: string, help: string, value: (usage: TagUsage) => number): ScrapedMetric {
  return {
    name,
    help,
    type: "gauge",
    labelNames: ["model_name", "tag"],
    samples: ({ engines }) =>
      engines.flatMap(({ status, tags }) =>
        Object.entries(tags).map(([tag, usage]) => ({
          labels: { model_name: status.engine, tag },
          value: value(usage),
        })),
      ),
  };
}

const tagMemory: readonly ScrapedMetric[] = [
  ofTags("camem_mapped_bytes", "Device memory that is awake", (usage) => usage.mappedBytes),
  ofTags("camem_host_bytes", "Backups in page-locked host memory", (usage) => usage.hostBytes),
  ofTags("camem_spilled_bytes", "Backups in the spill folder", (usage) => usage.spilledBytes),
  ofTags(
    "camem_checkpoint_bytes",
    "Content that its checkpoint file stands for",
    (usage) => usage.checkpointBytes,
  ),
  ofTags("camem_discarded_bytes", "Address space without content", (usage) => usage.discardedBytes),
  ofTags("camem_segments", "Reserved address ranges", (usage) => usage.segments),
];

function ofHost(name: string, help: string, value: (host: Snapshot["host"]) => number): ScrapedMetric {
  return {
    name,
    help,
    type: "gauge",
    labelNames: [],
    samples: ({ host }) => [{ labels: {}, value: value(host) }],
  };
}

function ofDevices(name: string, help: string, key: "freeBytes" | "totalBytes"): ScrapedMetric {
  return {
    name,
    help,
    type: "gauge",
    labelNames: ["device"],
    samples: ({ devices }) =>
      devices.map((memory) => ({ labels: { device: String(memory.device) }, value: memory[key] })),
  };
}

const machineMemory: readonly ScrapedMetric[] = [
  ofHost(
    "camem_page_locked_bytes",
    "Page-locked host memory: backups, prepared and retained",
    (host) => host.pageLockedBytes,
  ),
  ofHost(
    "camem_page_locked_free_bytes",
    "Page-locked host memory that holds no backup",
    (host) => host.freeBytes,
  ),
  ofHost(
    "camem_page_locked_prepared_bytes",
    "Free page-locked host memory prepared for the next sleep",
    (host) => host.preparedBytes,
  ),
  ofDevices("camem_device_free_bytes", "Free device memory, all processes considered", "freeBytes"),
  ofDevices("camem_device_total_bytes", "Device memory", "totalBytes"),
];

function ofRequests(
  name: string,
  help: string,
  type: ScrapedMetric["type"],
  key: keyof RequestCounts,
): ScrapedMetric {
  return {
    name,
    help,
    type,
    labelNames: ["model_name"],
    samples: ({ engines }) =>
      engines.map((engine) => ({
        labels: { model_name: engine.status.engine },
        value: engine.requests[key],
      })),
  };
}

const requests: readonly ScrapedMetric[] = [
  ofRequests("camem_requests_running", "Requests admitted and at work", "gauge", "running"),
  ofRequests("camem_requests_parked", "Requests halted at a checkpoint", "gauge", "parked"),
  ofRequests("camem_requests_waiting", "Requests held until the engine is awake", "gauge", "waiting"),
  ofRequests("camem_requests_admitted_total", "Requests admitted", "counter", "admittedTotal"),
  ofRequests("camem_requests_refused_total", "Requests refused", "counter", "refusedTotal"),
  ofRequests("camem_requests_aborted_total", "Requests told to end early", "counter", "abortedTotal"),
];

export const scrapedMetrics: readonly ScrapedMetric[] = [
  ...engineStates,
  ...tagMemory,
  ...machineMemory,
  ...requests,
];
