import type { DeviceBuffer } from "camem";
import type { TinyLlama } from "../tiny-llama/model.ts";
import type { Seat } from "./seat.ts";

/** The most tokens of a prompt in one step: some tens of milliseconds on the host. */
const chunkLength = 32;

/** Runs the steps of one model's sequences one after the other, and returns to the event loop after each. */
export class StepQueue {
  #last: Promise<void> = Promise.resolve();

  async run<T>(step: () => Promise<T>): Promise<T> {
    const before = this.#last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    await before;
    try {
      return await step();
    } finally {
      setImmediate(resolve);
    }
  }
}

/** A growing text: its tokens, and how many of them are in the key-value cache. */
export class Sequence {
  readonly #model: TinyLlama;
  readonly #seat: Seat;
  readonly #steps: StepQueue;
  readonly #tokens: number[];
  #cachedPositions = 0;

  constructor(model: TinyLlama, seat: Seat, steps: StepQueue, prompt: Uint8Array) {
    this.#model = model;
    this.#seat = seat;
    this.#steps = steps;
    this.#tokens = [...prompt];
  }

  append(token: number): void {
    this.#tokens.push(token);
  }

  /**
   * The logits of the next token. The engine may sleep between two steps; lost content of its cache is recomputed.
   *
   * @throws CamemError `ABORTED` or `CLOSED` when the seat's signal is aborted
   */
  async logits(): Promise<Float32Array> {
    while (true) {
      const { lostTags } = await this.#seat.checkpoint();
      if (lostTags.includes("kv_cache")) this.#cachedPositions = 0;
      const logits = await this.#steps.run(() => this.#step());
      if (this.#cachedPositions === this.#tokens.length) return logits;
    }
  }

  /**
   * Runs while the seat is not parked, so no memory goes to sleep meanwhile. A seat that was taken during a wake-up waits for the
   * memory of each layer.
   */
  async #step(): Promise<Float32Array> {
    this.#seat.signal.throwIfAborted();
    const start = this.#cachedPositions;
    const chunk = Uint8Array.from(this.#tokens.slice(start, start + chunkLength));
    const { slot: sequence, signal } = this.#seat;
    const ready = async (memory: readonly DeviceBuffer[]) => {
      await this.#seat.ready(memory).catch((error) => {
        signal.throwIfAborted();
        throw error;
      });
    };
    const logits = await this.#model.forward(chunk, start, { sequence, ready });
    this.#cachedPositions += chunk.length;
    return logits;
  }
}
