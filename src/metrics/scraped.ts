/** The samples of the metrics that are read at each scrape. */

import type { TagUsage } from "../memory/usage.ts";
import type { EngineState, RequestCounts } from "../server/engine/events.ts";
import type { scrapedNames } from "./names.ts";
import type { EngineSnapshot, Snapshot } from "./snapshot.ts";
import { operations } from "./transitions.ts";

export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

type Samples = (snapshot: Snapshot) => readonly Sample[];

const states: readonly EngineState[] = [
  "awake",
  "paused",
  "falling-asleep",
  "asleep",
  "waking",
  "awaiting-weights",
  "failed",
  "closed",
];

const sleepStates = ["awake", "weights_offloaded", "discard_all"] as const;

/** vLLM's sleep state. As in vLLM, level 0 has none, and the state changes when a transition has ended. */
function sleepStateOf({
  status: { level, awaitingTags },
}: EngineSnapshot): (typeof sleepStates)[number] | undefined {
  // Weights that are awake without their content count as discarded until they are loaded.
  if (level === 2 || (level === null && awaitingTags.length > 0)) return "discard_all";
  if (level === null) return "awake";
  return level === 1 ? "weights_offloaded" : undefined;
}

/** One sample for each value of `label`: 1 for the current value, 0 for the others. */
function stateSet<T extends string>(
  label: string,
  values: readonly T[],
  currentOf: (engine: EngineSnapshot) => T | undefined,
  labels: Readonly<Record<string, string>> = {},
): Samples {
  return ({ engines }) =>
    engines.flatMap((engine) => {
      const current = currentOf(engine);
      return values.map((value) => ({
        labels: { ...labels, model_name: engine.status.engine, [label]: value },
        value: value === current ? 1 : 0,
      }));
    });
}

function ofTags(read: (usage: TagUsage) => number): Samples {
  return ({ engines }) =>
    engines.flatMap(({ status, tags }) =>
      Object.entries(tags).map(([tag, usage]) => ({
        labels: { model_name: status.engine, tag },
        value: read(usage),
      })),
    );
}

/** vLLM numbers the replicas of a model; here there is one. */
const onlyReplica = { engine: "0" };

function ofVllmRequests(read: (requests: RequestCounts) => number): Samples {
  return ({ engines }) =>
    engines.map(({ status, requests }) => ({
      labels: { ...onlyReplica, model_name: status.engine },
      value: read(requests),
    }));
}

function ofHost(read: (host: Snapshot["host"]) => number): Samples {
  return ({ host }) => [{ labels: {}, value: read(host) }];
}

function ofDevices(property: "freeBytes" | "totalBytes"): Samples {
  return ({ devices }) =>
    devices.map((memory) => ({ labels: { device: String(memory.device) }, value: memory[property] }));
}

function ofRequests(property: keyof RequestCounts): Samples {
  return ({ engines }) =>
    engines.map(({ status, requests }) => ({
      labels: { model_name: status.engine },
      value: requests[property],
    }));
}

/** The samples of each scraped metric. */
export const samplesOf: Readonly<Record<keyof typeof scrapedNames, Samples>> = {
  sleepState: stateSet("sleep_state", sleepStates, sleepStateOf, onlyReplica),
  engineState: stateSet("state", states, ({ status }) => status.state),
  mappedBytes: ofTags((usage) => usage.mappedBytes),
  hostBytes: ofTags((usage) => usage.hostBytes),
  pageableBytes: ofTags((usage) => usage.pageableBytes),
  spilledBytes: ofTags((usage) => usage.spilledBytes),
  checkpointBytes: ofTags((usage) => usage.checkpointBytes),
  discardedBytes: ofTags((usage) => usage.discardedBytes),
  segments: ofTags((usage) => usage.segments),
  lostContent: ({ engines }) =>
    engines.flatMap(({ status, tags }) =>
      Object.keys(tags).map((tag) => ({
        labels: { model_name: status.engine, tag },
        value: status.awaitingTags.includes(tag) ? 1 : 0,
      })),
    ),
  hostBudgetBytes: ({ host: { budget } }) =>
    budget.sizeBytes === null ? [] : [{ labels: {}, value: budget.sizeBytes }],
  pageLockedBytes: ofHost((host) => host.pageLockedBytes),
  pageLockedFreeBytes: ofHost((host) => host.freeBytes),
  pageLockedPreparedBytes: ofHost((host) => host.preparedBytes),
  deviceFreeBytes: ofDevices("freeBytes"),
  deviceTotalBytes: ofDevices("totalBytes"),
  vllmRequestsRunning: ofVllmRequests(({ running }) => running),
  vllmRequestsWaiting: ofVllmRequests(({ waiting, parked }) => waiting + parked),
  requestsRunning: ofRequests("running"),
  requestsParked: ofRequests("parked"),
  requestsWaiting: ofRequests("waiting"),
  requestsAdmitted: ofRequests("admittedTotal"),
  requestsRefused: ofRequests("refusedTotal"),
  requestsAborted: ofRequests("abortedTotal"),
  operationsInFlight: ({ inFlight }) =>
    operations.map((operation) => ({ labels: { operation }, value: inFlight[operation] })),
  scrapeFailures: ({ failures }) => [...failures].map(([code, value]) => ({ labels: { code }, value })),
};
