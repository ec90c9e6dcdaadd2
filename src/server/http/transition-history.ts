import type { EngineEvent, TransitionEndedEvent, TransitionStartedEvent } from "../engine/events.ts";
import type { EngineGroup } from "../pool/engine-group.ts";

const endedLimit = 50;

/** The transitions in progress and the latest that have ended. */
export class TransitionHistory {
  readonly #running = new Map<string, TransitionStartedEvent>();
  readonly #ended: TransitionEndedEvent[] = [];
  /** Stops recording. */
  readonly close: () => void;

  constructor(group: EngineGroup) {
    this.close = group.subscribe((event) => this.#onEvent(event));
  }

  /** Plain data for JSON; the latest first. */
  get transitions(): {
    readonly running: readonly TransitionStartedEvent[];
    readonly ended: readonly TransitionEndedEvent[];
  } {
    return { running: [...this.#running.values()].reverse(), ended: this.#ended.toReversed() };
  }

  #onEvent(event: EngineEvent): void {
    if (event.type === "transition-started") this.#running.set(event.engine, event);
    if (event.type !== "transition-ended") return;
    this.#running.delete(event.engine);
    this.#ended.push(event);
    if (this.#ended.length > endedLimit) this.#ended.shift();
  }
}
