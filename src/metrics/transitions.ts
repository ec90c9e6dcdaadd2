/** The metrics that grow with every sleep and wake-up. */

import type { Counter, Histogram } from "prom-client";
import type { EngineEvent, TransitionEndedEvent } from "../server/engine/events.ts";
import type { TransitionDurations } from "../transition/progress.ts";

export const operations = ["sleep", "wake"] as const;

/** Those that vLLM has. */
export const vllmBuckets = [0.01, 0.1, 1, 10, 30, 60, 120, 300, 600];

/** Wide enough for a model from a spill folder, and fine where page-locked memory is fast. */
export const durationBuckets = [
  0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600,
];

const phases: Readonly<Record<string, keyof TransitionDurations>> = {
  waiting: "waitingMs",
  preparing: "preparingMs",
  mapping: "mappingMs",
  copying: "copyingMs",
  verifying: "verifyingMs",
  releasing: "releasingMs",
};

export interface OperationInstruments {
  readonly vllmDuration: Histogram;
  readonly duration: Histogram;
  readonly phaseSeconds: Counter;
  readonly failures: Counter;
}

/** Follows the events of engines. */
export class OperationRecorder {
  readonly #instruments: OperationInstruments;
  readonly #labels: Readonly<Record<string, string>>;
  /** The operation of each transition that runs, by engine and number. */
  readonly #running = new Map<string, string>();

  constructor(instruments: OperationInstruments, labels: Readonly<Record<string, string>>) {
    this.#instruments = instruments;
    this.#labels = labels;
    for (const operation of operations) instruments.vllmDuration.zero({ ...labels, operation });
  }

  inFlight(operation: string): number {
    return [...this.#running.values()].filter((running) => running === operation).length;
  }

  take(event: EngineEvent): void {
    if (event.type === "transition-started")
      this.#running.set(`${event.engine} ${event.id}`, event.operation);
    if (event.type !== "transition-ended") return;
    this.#running.delete(`${event.engine} ${event.id}`);
    this.#record(event);
  }

  #record({ engine, operation, outcome, durationMs, report, failure }: TransitionEndedEvent): void {
    const { vllmDuration, duration, phaseSeconds, failures } = this.#instruments;
    const labels = { ...this.#labels, model_name: engine, operation };
    duration.observe({ ...labels, outcome }, durationMs / 1000);
    // What did nothing took no time worth knowing, and would hide how long a sleep takes.
    if (outcome !== "no-op") vllmDuration.observe({ ...this.#labels, operation }, durationMs / 1000);
    if (failure) failures.inc({ ...labels, code: failure.code });
    if (report === null) return;
    for (const [phase, key] of Object.entries(phases))
      phaseSeconds.inc({ ...labels, phase }, report.durations[key] / 1000);
  }
}
