import { indexOfHighest } from "../tiny-llama/greedy-decoder.ts";

/** A token (a byte) and its log-probability. */
export interface SampledToken {
  readonly token: number;
  /** Its log-probability and those of the likeliest tokens; undefined if they were not requested. */
  readonly logprobs: TokenLogprobs | undefined;
}

interface TokenLogprobs {
  readonly own: number;
  readonly top: readonly (readonly [token: number, logprob: number])[];
}

interface SamplerOptions {
  /** 0: always the likeliest token. */
  readonly temperature: number;
  readonly seed: number | undefined;
  /** How many of the likeliest tokens to return with log-probabilities; undefined for no log-probabilities at all. */
  readonly logprobs: number | undefined;
}

/** Chooses the next token from the logits. */
export class Sampler {
  readonly #options: SamplerOptions;
  #state: number;

  constructor(options: SamplerOptions) {
    this.#options = options;
    this.#state = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
  }

  sample(logits: Float32Array): SampledToken {
    const { temperature, logprobs } = this.#options;
    const token = temperature === 0 ? indexOfHighest(logits) : this.#draw(logSoftmax(logits, temperature));
    return { token, logprobs: logprobs === undefined ? undefined : explain(logits, token, logprobs) };
  }

  #draw(logprobs: readonly number[]): number {
    let left = this.#random();
    for (const [token, logprob] of logprobs.entries()) {
      left -= Math.exp(logprob);
      if (left < 0) return token;
    }
    return logprobs.length - 1;
  }

  /** Mulberry32: numbers from 0 to below 1, reproducible from the seed. */
  #random(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let bits = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  }
}

function logSoftmax(logits: Float32Array, temperature: number): number[] {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const highest = Math.max(...scaled);
  const sum = scaled.reduce((total, value) => total + Math.exp(value - highest), 0);
  return scaled.map((value) => value - highest - Math.log(sum));
}

function explain(logits: Float32Array, token: number, count: number): TokenLogprobs {
  const logprobs = logSoftmax(logits, 1);
  const top = [...logprobs.entries()].toSorted((a, b) => b[1] - a[1]).slice(0, count);
  return { own: logprobs[token] ?? Number.NaN, top };
}
