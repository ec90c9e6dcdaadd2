/** `/v1/chat/completions`: the model folder's template makes a prompt of the messages. */

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import type { Static } from "typebox";
import type { AnswerFormat } from "./answer-format.ts";
import type { PlacedToken } from "./continuation.ts";
import { type LlamaEngine, modelDirectory } from "./engine.ts";
import { encodePrompts, type Generation, nameOf } from "./generation.ts";
import { ChatRequest, OpenAiError, readRequest } from "./openai.ts";

/** As in vLLM, a chat goes on to the end of the context. */
const defaultMaxTokens = Number.POSITIVE_INFINITY;

const template = new Template(await readFile(join(modelDirectory, "chat_template.jinja"), "utf8"));

type Message = Static<typeof ChatRequest>["messages"][number];

function textOf({ content }: Message): string {
  if (typeof content === "string") return content;
  return (content ?? []).map(({ text }) => text).join("");
}

function render(messages: readonly Message[]): string {
  const plain = messages.map((message) => ({ role: message.role, content: textOf(message) }));
  try {
    return template.render({ messages: plain, add_generation_prompt: true });
  } catch (error) {
    // A template raises an exception for an order of roles that it does not know.
    throw new OpenAiError(400, `the chat template refuses: ${(error as Error).message}`, "messages");
  }
}

export async function readChatRequest(
  request: Request,
  engineOf: (model: string | undefined) => LlamaEngine,
): Promise<[Generation, AnswerFormat]> {
  const input = await readRequest(ChatRequest, request);
  const engine = engineOf(input.model);
  const maxTokens = input.max_completion_tokens ?? input.max_tokens;
  const maxTokensParam = input.max_completion_tokens === undefined ? "max_tokens" : "max_completion_tokens";
  const { contextLength } = engine;
  const params = { promptParam: "messages", maxTokensParam };
  const prompts = encodePrompts({ texts: [render(input.messages)], contextLength, maxTokens, ...params });
  const logprobs = input.logprobs ? (input.top_logprobs ?? 0) : undefined;
  return [{ engine, prompts, input, maxTokens, defaultMaxTokens, logprobs }, chatFormat];
}

const chatFormat: AnswerFormat = {
  idPrefix: "chatcmpl",
  object: "chat.completion",
  chunkObject: "chat.completion.chunk",
  choice: ({ text, tokens }) => ({
    message: { role: "assistant", content: text, refusal: null },
    logprobs: logprobsOf(tokens),
  }),
  firstChunk: () => ({ delta: { role: "assistant", content: "" }, logprobs: null }),
  chunk: ({ text, tokens }) => ({
    delta: text === "" ? {} : { content: text },
    logprobs: logprobsOf(tokens),
  }),
};

function logprobsOf(tokens: readonly PlacedToken[]) {
  const explained = tokens.flatMap(({ token, logprobs }) => (logprobs ? [{ token, logprobs }] : []));
  if (explained.length === 0) return null;
  const entry = (token: number, logprob: number) => ({ token: nameOf(token), logprob, bytes: [token] });
  return {
    content: explained.map(({ token, logprobs }) => ({
      ...entry(token, logprobs.own),
      top_logprobs: logprobs.top.map(([other, logprob]) => entry(other, logprob)),
    })),
    refusal: null,
  };
}
