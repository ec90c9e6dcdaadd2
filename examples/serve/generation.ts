/** Texts that a model writes after prompts, for one request. */

import { continueSequence, type Piece } from "./continuation.ts";
import type { LlamaEngine } from "./engine.ts";
import { type GenerationRequest, OpenAiError, type Usage } from "./openai.ts";
import { Sampler } from "./sampling.ts";
import type { Seat } from "./seat.ts";

const encoder = new TextEncoder();

/** A valid request. */
export interface Generation {
  readonly engine: LlamaEngine;
  readonly prompts: readonly Uint8Array[];
  readonly input: GenerationRequest;
  /** The most tokens of each text; by default what the context leaves, and at most `defaultMaxTokens`. */
  readonly maxTokens: number | undefined;
  readonly defaultMaxTokens: number;
  /** How many of the likeliest tokens to return with log-probabilities; undefined for none at all. */
  readonly logprobs: number | undefined;
}

interface Checked {
  readonly texts: readonly string[];
  readonly contextLength: number;
  readonly maxTokens: number | undefined;
  /** The parameters that an error names. */
  readonly promptParam: string;
  readonly maxTokensParam: string;
}

/** @throws OpenAiError 400 for prompts that are empty or too long */
export function encodePrompts({ texts, contextLength, maxTokens = 1, ...params }: Checked): Uint8Array[] {
  const prompts = texts.map((text) => encoder.encode(text));
  for (const { length } of prompts) {
    if (length === 0)
      throw new OpenAiError(
        400,
        `${params.promptParam} is empty; it must have at least one character`,
        params.promptParam,
      );
    if (length + maxTokens <= contextLength) continue;
    throw new OpenAiError(
      400,
      `this model's maximum context length is ${contextLength} tokens of one byte each; the request has ${length} in the prompt and ${maxTokens} for the completion`,
      length >= contextLength ? params.promptParam : params.maxTokensParam,
      "context_length_exceeded",
    );
  }
  return prompts;
}

/** A piece of the text with this index: `n` texts for the first prompt, then those of the next. */
export interface IndexedPiece extends Piece {
  readonly index: number;
}

/** The texts, one after the other. */
export async function* generate(
  { engine, prompts, input, maxTokens, defaultMaxTokens, logprobs }: Generation,
  seat: Seat,
): AsyncGenerator<IndexedPiece, void, undefined> {
  const { temperature = 0, top_p: topP = 1, seed, stop = [], n = 1 } = input;
  const stops = (typeof stop === "string" ? [stop] : stop).filter((text) => text !== "");
  for (let index = 0; index < prompts.length * n; index++) {
    const prompt = prompts[Math.floor(index / n)] ?? new Uint8Array();
    const options = {
      // Texts of one prompt differ, and each is the same for the same seed.
      sampler: new Sampler({ temperature, topP, seed: seed && seed + (index % n), logprobs }),
      maxTokens: maxTokens ?? Math.min(defaultMaxTokens, engine.contextLength - prompt.length),
      stops,
    };
    const sequence = engine.begin(seat, prompt);
    for await (const piece of continueSequence(sequence, options)) yield { ...piece, index };
  }
}

export function usageOf({ prompts }: Generation, completionTokens: number): Usage {
  const promptTokens = prompts.reduce((sum, { length }) => sum + length, 0);
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

/** A token as text. One byte may be a part of a character. */
export function nameOf(token: number): string {
  return token < 128 ? String.fromCharCode(token) : `bytes:\\x${token.toString(16)}`;
}
