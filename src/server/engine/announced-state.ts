import type { EngineMemory } from "./engine-memory.ts";
import type { EngineState } from "./events.ts";
import type { EngineStateTracker } from "./state.ts";

/** The state in the latest `state` event, and when it began. */
export class AnnouncedState {
  readonly #memory: EngineMemory;
  readonly #tracker: EngineStateTracker;
  #key: string;
  #state: EngineState = "awake";
  #sinceMs = Date.now();

  constructor(memory: EngineMemory, tracker: EngineStateTracker) {
    this.#memory = memory;
    this.#tracker = tracker;
    this.#key = this.#keyNow();
  }

  get state(): EngineState {
    return this.#state;
  }

  /** When the state began, in milliseconds since 1970. */
  get sinceMs(): number {
    return this.#sinceMs;
  }

  /** Takes over the state of the engine. Returns false when nothing has changed. */
  update(): boolean {
    const key = this.#keyNow();
    if (key === this.#key) return false;
    this.#key = key;
    const { current } = this.#tracker;
    if (current !== this.#state) this.#sinceMs = Date.now();
    this.#state = current;
    return true;
  }

  #keyNow(): string {
    const { sleeping, sleepingTags, awaitingTags } = this.#memory;
    const { current, paused, failure } = this.#tracker;
    return JSON.stringify([current, sleeping, sleepingTags, awaitingTags, paused, failure?.message]);
  }
}
