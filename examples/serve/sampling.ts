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
  /** Samples from the likeliest tokens, which together have at least this probability; 1 for all. */
  readonly topP: number;
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
    const { temperature, topP, logprobs } = this.#options;
    const token =
      temperature === 0
        ? indexOfHighest(logits)
        : this.#draw(nucleusOf(logSoftmax(logits, temperature), topP));
    return { token, logprobs: logprobs === undefined ? undefined : explain(logits, token, logprobs) };
  }

  #draw(nucleus: readonly Candidate[]): number {
    const whole = nucleus.reduce((sum, [, probability]) => sum + probability, 0);
    let left = this.#random() * whole;
    for (const [token, probability] of nucleus) {
      left -= probability;
      if (left < 0) return token;
    }
    return nucleus.at(-1)?.[0] ?? 0;
  }

  /** Mulberry32: numbers from 0 to below 1, reproducible from the seed. */
  #random(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let bits = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  }
}

type Candidate = readonly [token: number, probability: number];

/** The fewest likeliest tokens that together have the probability `topP`; all, in their order, for 1. */
function nucleusOf(logprobs: readonly number[], topP: number): Candidate[] {
  const candidates = logprobs.map((logprob, token): Candidate => [token, Math.exp(logprob)]);
  if (topP === 1) return candidates;
  candidates.sort((a, b) => b[1] - a[1]);
  let sum = 0;
  const end = candidates.findIndex(([, probability]) => {
    sum += probability;
    return sum >= topP;
  });
  return end < 0 ? candidates : candidates.slice(0, end + 1);
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
