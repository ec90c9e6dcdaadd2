import type { EngineEvent, TransitionEndedEvent, TransitionStartedEvent } from "../engine/events.ts";
import type { EngineGroup } from "../pool/engine-group.ts";

const endedAtMost = 50;

/** The transitions that run and those that ended last, for whoever comes to look when something has happened. */
export class TransitionHistory {
  readonly #running = new Map<string, TransitionStartedEvent>();
  readonly #ended: TransitionEndedEvent[] = [];
  /** Ends it: nothing is added any more. */
  readonly close: () => void;

  constructor(group: EngineGroup) {
    this.close = group.subscribe((event) => this.#take(event));
  }

  /** Plain data that can be sent as JSON; the latest first. */
  get transitions(): {
    readonly running: readonly TransitionStartedEvent[];
    readonly ended: readonly TransitionEndedEvent[];
  } {
    return { running: [...this.#running.values()].reverse(), ended: this.#ended.toReversed() };
  }

  #take(event: EngineEvent): void {
    if (event.type === "transition-started") this.#running.set(event.engine, event);
    if (event.type !== "transition-ended") return;
    this.#running.delete(event.engine);
    this.#ended.push(event);
    if (this.#ended.length > endedAtMost) this.#ended.shift();
  }
}
