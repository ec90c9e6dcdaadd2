import { CamemError } from "camem";
import type { SampledToken, Sampler } from "./sampling.ts";
import type { Sequence } from "./sequence.ts";
import { StopFilter } from "./stop-filter.ts";

/** A token of the continuation, and the offset of its text. */
export interface PlacedToken extends SampledToken {
  readonly textOffset: number;
}

/** A piece of the continuation. The last piece has the reason for the end. */
export interface Piece {
  readonly text: string;
  readonly tokens: readonly PlacedToken[];
  readonly finishReason: "stop" | "length" | "abort" | null;
}

interface ContinuationOptions {
  readonly sampler: Sampler;
  readonly maxTokens: number;
  readonly stops: readonly string[];
}

/**
 * The text that a model writes after a prompt. Incomplete characters, and possible beginnings of a stop text, are held back. When
 * the model goes to sleep or is paused in mode `abort`, the text so far ends with the reason `abort`.
 */
export async function* continueSequence(
  sequence: Sequence,
  { sampler, maxTokens, stops }: ContinuationOptions,
): AsyncGenerator<Piece, void, undefined> {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const filter = new StopFilter(stops);
  let tokens: PlacedToken[] = [];
  let textOffset = 0;
  for (let count = 0; count < maxTokens; count++) {
    let logits: Float32Array;
    try {
      logits = await sequence.logits();
    } catch (error) {
      if (!(error instanceof CamemError) || error.code !== "ABORTED") throw error;
      const { text } = filter.push(decoder.decode());
      return yield { text: text + filter.flush(), tokens, finishReason: "abort" };
    }
    const sampled = sampler.sample(logits);
    sequence.append(sampled.token);
    tokens.push({ ...sampled, textOffset });
    const decoded = decoder.decode(Uint8Array.of(sampled.token), { stream: true });
    textOffset += decoded.length;
    const { text, stopped } = filter.push(decoded);
    if (stopped) return yield { text, tokens, finishReason: "stop" };
    if (text === "") continue;
    yield { text, tokens, finishReason: null };
    tokens = [];
  }
  const { text, stopped } = filter.push(decoder.decode());
  yield { text: stopped ? text : text + filter.flush(), tokens, finishReason: stopped ? "stop" : "length" };
}
