import type { TinyLlama } from "../tiny-llama/model.ts";
import type { Seat } from "./seat.ts";

/** The longest piece of a prompt that goes through the model at once: some tens of milliseconds on the host. */
const chunkLength = 32;

/** Steps of all sequences one after the other, with a turn of the event loop after each, so that none of them blocks it. */
export class StepTurns {
  #last: Promise<void> = Promise.resolve();

  async take<T>(step: () => T): Promise<T> {
    const before = this.#last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    await before;
    try {
      return step();
    } finally {
      setImmediate(resolve);
    }
  }
}

/** A text in the making: its tokens, and how many of them are in the key-value cache. */
export class Sequence {
  readonly #model: TinyLlama;
  readonly #seat: Seat;
  readonly #turns: StepTurns;
  readonly #tokens: number[];
  #cachedPositions = 0;

  constructor(model: TinyLlama, seat: Seat, turns: StepTurns, prompt: Uint8Array) {
    this.#model = model;
    this.#seat = seat;
    this.#turns = turns;
    this.#tokens = [...prompt];
  }

  append(token: number): void {
    this.#tokens.push(token);
  }

  /**
   * The logits of the next token. Between two steps the engine may sleep; what its cache has lost is computed anew.
   *
   * @throws CamemError `ABORTED` or `CLOSED` when the seat's signal is aborted
   */
  async logits(): Promise<Float32Array> {
    while (true) {
      const { lostTags } = await this.#seat.checkpoint();
      if (lostTags.includes("kv_cache")) this.#cachedPositions = 0;
      const logits = await this.#turns.take(() => this.#step());
      if (this.#cachedPositions === this.#tokens.length) return logits;
    }
  }

  /** Runs inside a seat that is not parked, so that no memory moves meanwhile. */
  #step(): Float32Array {
    this.#seat.signal.throwIfAborted();
    const start = this.#cachedPositions;
    const chunk = Uint8Array.from(this.#tokens.slice(start, start + chunkLength));
    const logits = this.#model.forward(chunk, start, this.#seat.slot);
    this.#cachedPositions += chunk.length;
    return logits;
  }
}
