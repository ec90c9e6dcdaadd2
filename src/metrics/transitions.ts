/** The metrics that count every sleep and wake-up. */

import type { Counter, Histogram } from "prom-client";
import type { EngineEvent, TransitionEndedEvent } from "../server/engine/events.ts";
import type { TransitionDurations } from "../transition/progress.ts";
import type { transitionNames } from "./names.ts";

export const operations = ["sleep", "wake"] as const;

type Operation = (typeof operations)[number];

/** How many transitions are in progress, by operation. */
export type OperationCounts = Readonly<Record<Operation, number>>;

const phases: Readonly<Record<string, keyof TransitionDurations>> = {
  waiting: "waitingMs",
  preparing: "preparingMs",
  mapping: "mappingMs",
  copying: "copyingMs",
  verifying: "verifyingMs",
  releasing: "releasingMs",
};

/** The instruments of {@link transitionNames}. */
interface TransitionInstruments extends Record<keyof typeof transitionNames, Histogram | Counter> {
  readonly vllmDuration: Histogram;
  readonly duration: Histogram;
  readonly phaseSeconds: Counter;
  readonly failures: Counter;
}

/** Counts the transitions in the events of engines. */
export class TransitionRecorder {
  readonly #instruments: TransitionInstruments;
  readonly #labels: Readonly<Record<string, string>>;
  /** The operation of each transition in progress, by engine and id. */
  readonly #inFlight = new Map<string, Operation>();

  constructor(instruments: TransitionInstruments, labels: Readonly<Record<string, string>>) {
    this.#instruments = instruments;
    this.#labels = labels;
    for (const operation of operations) instruments.vllmDuration.zero({ ...labels, operation });
  }

  get inFlight(): OperationCounts {
    const count = (operation: Operation) =>
      [...this.#inFlight.values()].filter((each) => each === operation).length;
    return { sleep: count("sleep"), wake: count("wake") };
  }

  record(event: EngineEvent): void {
    if (event.type === "transition-started")
      this.#inFlight.set(`${event.engine} ${event.id}`, event.operation);
    if (event.type !== "transition-ended") return;
    this.#inFlight.delete(`${event.engine} ${event.id}`);
    this.#recordEnd(event);
  }

  #recordEnd({ engine, operation, outcome, durationMs, report, failure }: TransitionEndedEvent): void {
    const { vllmDuration, duration, phaseSeconds, failures } = this.#instruments;
    const labels = { ...this.#labels, model_name: engine, operation };
    duration.observe({ ...labels, outcome }, durationMs / 1000);
    // Transitions that did nothing would distort the durations of the others.
    if (outcome !== "no-op") vllmDuration.observe({ ...this.#labels, operation }, durationMs / 1000);
    if (failure) failures.inc({ ...labels, code: failure.code });
    if (report === null) return;
    for (const [phase, property] of Object.entries(phases))
      phaseSeconds.inc({ ...labels, phase }, report.durations[property] / 1000);
  }
}
