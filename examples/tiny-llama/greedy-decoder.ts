import { setImmediate } from "node:timers/promises";
import type { Ready, TinyLlama } from "./model.ts";

/** Continues a text byte by byte (a token is a byte), always with the likeliest byte. */
export class GreedyDecoder {
  readonly #model: TinyLlama;
  readonly #text: number[];
  /** How many positions at the start of the text are in the key-value cache. */
  #cachedPositions = 0;

  constructor(model: TinyLlama, prompt: Uint8Array) {
    if (prompt.length === 0) throw new RangeError("The prompt is empty: give at least one byte.");
    this.#model = model;
    this.#text = [...prompt];
  }

  /** Call it after a sleep, which discards the cache: the next step recomputes it from the text. */
  forgetCache(): void {
    this.#cachedPositions = 0;
  }

  /** The next byte of the text. */
  async next(ready?: Ready): Promise<number> {
    const byte = indexOfHighest(await this.#logits(ready));
    this.#text.push(byte);
    return byte;
  }

  async #logits(ready?: Ready): Promise<Float32Array> {
    const options = ready ? { ready } : {};
    const windowLength = this.#model.config.max_position_embeddings;
    if (this.#text.length <= windowLength) {
      const pending = Uint8Array.from(this.#text.slice(this.#cachedPositions));
      const logits = await this.#model.forward(pending, this.#cachedPositions, options);
      this.#cachedPositions = this.#text.length;
      return logits;
    }
    // Cached keys contain their positions. A moving window changes all positions, which makes the cache useless.
    return this.#model.forward(Uint8Array.from(this.#text.slice(-windowLength)), 0, options);
  }
}

interface GenerateOptions {
  /** Receives the count so far after each byte. */
  readonly onByte?: (done: number) => void;
  /** Waits for the memory of a wake-up that still runs. */
  readonly ready?: Ready | undefined;
}

/** The `count` bytes that follow the prompt. */
export async function generate(
  model: TinyLlama,
  prompt: Uint8Array,
  count: number,
  { onByte, ready }: GenerateOptions = {},
): Promise<Uint8Array> {
  const decoder = new GreedyDecoder(model, prompt);
  const bytes = new Uint8Array(count);
  for (let index = 0; index < count; index++) {
    bytes[index] = await decoder.next(ready);
    onByte?.(index + 1);
    await setImmediate(); // lets the event loop run other tasks
  }
  return bytes;
}

export function indexOfHighest(values: Float32Array): number {
  let highest = 0;
  for (const [index, value] of values.entries()) {
    if (value > (values[highest] ?? Number.NEGATIVE_INFINITY)) highest = index;
  }
  return highest;
}
