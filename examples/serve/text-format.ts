/** `/v1/completions`: texts that continue prompts. */

import type { AnswerFormat } from "./answer-format.ts";
import type { PlacedToken } from "./continuation.ts";
import type { LlamaEngine } from "./engine.ts";
import { encodePrompts, type Generation, nameOf } from "./generation.ts";
import { CompletionRequest, OpenAiError, readRequest } from "./openai.ts";

/** OpenAI's default. */
const defaultMaxTokens = 16;

export async function readTextRequest(
  request: Request,
  engineOf: (model: string | undefined) => LlamaEngine,
): Promise<[Generation, AnswerFormat]> {
  const input = await readRequest(CompletionRequest, request);
  const { n = 1, best_of = n, echo = false, logprobs, max_tokens: maxTokens } = input;
  if (best_of !== n)
    throw new OpenAiError(400, `best_of is ${best_of}; it must be n, which is ${n}`, "best_of");
  if (echo && logprobs !== undefined)
    throw new OpenAiError(400, "echo is true with logprobs; this example has none of prompts", "echo");
  const engine = engineOf(input.model);
  const texts = typeof input.prompt === "string" ? [input.prompt] : input.prompt;
  const { contextLength } = engine;
  const params = { promptParam: "prompt", maxTokensParam: "max_tokens" };
  const prompts = encodePrompts({ texts, contextLength, maxTokens, ...params });
  const before = (index: number) => (echo ? (texts[Math.floor(index / n)] ?? "") : "");
  return [{ engine, prompts, input, maxTokens, defaultMaxTokens, logprobs }, textFormat(before)];
}

/** @param before the text that stands before the one with this index */
function textFormat(before: (index: number) => string): AnswerFormat {
  return {
    idPrefix: "cmpl",
    object: "text_completion",
    chunkObject: "text_completion",
    choice: ({ text, tokens, index }) => ({ text: before(index) + text, logprobs: logprobsOf(tokens) }),
    firstChunk: (index) => {
      const text = before(index);
      return text === "" ? undefined : { text, logprobs: null };
    },
    chunk: ({ text, tokens }) => ({ text, logprobs: logprobsOf(tokens) }),
  };
}

function logprobsOf(tokens: readonly PlacedToken[]) {
  const explained = tokens.flatMap(({ logprobs, ...token }) => (logprobs ? [{ ...token, logprobs }] : []));
  if (explained.length === 0) return null;
  return {
    tokens: explained.map(({ token }) => nameOf(token)),
    token_logprobs: explained.map(({ logprobs }) => logprobs.own),
    top_logprobs: explained.map(({ logprobs }) =>
      Object.fromEntries(logprobs.top.map(([token, logprob]) => [nameOf(token), logprob])),
    ),
    text_offset: explained.map(({ textOffset }) => textOffset),
  };
}
