/** `POST /v1/completions`. */

import { leasedStream, type ModelPool, type ServerInfo } from "camem/server";
import { continueSequence, type Piece, type PlacedToken } from "./continuation.ts";
import type { LlamaEngine } from "./engine.ts";
import { type CompletionRequest, OpenAiError, readCompletionRequest, type Usage } from "./openai.ts";
import { Sampler } from "./sampling.ts";
import type { Seat } from "./seat.ts";
import { StepQueue } from "./sequence.ts";

const defaultMaxTokens = 16;
const encoder = new TextEncoder();

/** A valid request. */
interface Job {
  readonly engine: LlamaEngine;
  readonly prompts: readonly Uint8Array[];
  readonly stops: readonly string[];
  readonly input: CompletionRequest;
  /** The first properties of the answer and of every chunk. */
  readonly head: {
    readonly id: string;
    readonly object: "text_completion";
    readonly created: number;
    readonly model: string;
  };
}

export class Completions {
  readonly #engines: ReadonlyMap<string, LlamaEngine>;
  readonly #pool: ModelPool;
  readonly #steps = new StepQueue();

  constructor(engines: readonly LlamaEngine[], pool: ModelPool) {
    this.#engines = new Map(engines.map((engine) => [engine.name, engine]));
    this.#pool = pool;
  }

  async answer(request: Request, server: ServerInfo): Promise<Response> {
    try {
      const job = this.#accept(await readCompletionRequest(request));
      // The request may wait for a slot of the cache, and the answer for a sleeping model.
      server.timeout?.(request, 0);
      const seat = await job.engine.admit(this.#pool, request, server);
      if (seat instanceof Response) return seat;
      return job.input.stream ? this.#stream(job, seat) : await this.#complete(job, seat);
    } catch (error) {
      return errorOf(error).response;
    }
  }

  /** @throws OpenAiError 400 or 404 */
  #accept(input: CompletionRequest): Job {
    const engine = this.#engineOf(input.model);
    const texts = typeof input.prompt === "string" ? [input.prompt] : input.prompt;
    const prompts = texts.map((text) => encoder.encode(text));
    for (const prompt of prompts) checkLength(prompt.length, input.max_tokens ?? 1, engine.contextLength);
    const stops = typeof input.stop === "string" ? [input.stop] : (input.stop ?? []);
    const head = {
      id: `cmpl-${crypto.randomUUID()}`,
      object: "text_completion" as const,
      created: Math.floor(Date.now() / 1000),
      model: engine.name,
    };
    return { engine, prompts, stops: stops.filter((stop) => stop !== ""), input, head };
  }

  #engineOf(model: string | undefined): LlamaEngine {
    const names = [...this.#engines.keys()];
    if (model === undefined && names.length > 1)
      throw new OpenAiError(400, `model is missing; it must be one of ${names.join(", ")}`, "model");
    const engine = this.#engines.get(model ?? names[0] ?? "");
    if (engine) return engine;
    throw new OpenAiError(
      404,
      `there is no model ${JSON.stringify(model)}; the models are ${names.join(", ")}`,
      "model",
      "model_not_found",
    );
  }

  async #complete(job: Job, seat: Seat): Promise<Response> {
    using _released = seat;
    const choices = job.prompts.map(() => ({ text: "", tokens: [] as PlacedToken[], finishReason: "" }));
    for await (const { index, text, tokens, finishReason } of this.#pieces(job, seat)) {
      const choice = choices[index];
      if (choice === undefined) continue;
      choice.text += text;
      choice.tokens.push(...tokens);
      choice.finishReason = finishReason ?? "";
    }
    const count = choices.reduce((sum, { tokens }) => sum + tokens.length, 0);
    return Response.json({
      ...job.head,
      choices: choices.map(({ text, tokens, finishReason }, index) => ({
        index,
        text,
        logprobs: logprobsOf(tokens),
        finish_reason: finishReason,
      })),
      usage: usageOf(job, count),
    });
  }

  #stream(job: Job, seat: Seat): Response {
    return new Response(leasedStream(seat, this.#events(job, seat)), {
      headers: { "content-type": "text/event-stream", "cache-control": "no-store" },
    });
  }

  async *#events(job: Job, seat: Seat): AsyncGenerator<string, void, undefined> {
    let count = 0;
    try {
      for await (const { index, text, tokens, finishReason } of this.#pieces(job, seat)) {
        count += tokens.length;
        const choice = { index, text, logprobs: logprobsOf(tokens), finish_reason: finishReason };
        yield eventOf({ ...job.head, choices: [choice] });
      }
      if (job.input.stream_options?.include_usage)
        yield eventOf({ ...job.head, choices: [], usage: usageOf(job, count) });
    } catch (error) {
      yield eventOf(errorOf(error).body);
    }
    yield "data: [DONE]\n\n";
  }

  /** The continuations of the prompts, one after the other. */
  async *#pieces(
    { engine, prompts, stops, input }: Job,
    seat: Seat,
  ): AsyncGenerator<Piece & { readonly index: number }, void, undefined> {
    const { temperature = 0, seed, logprobs, max_tokens: maxTokens } = input;
    for (const [index, prompt] of prompts.entries()) {
      const options = {
        sampler: new Sampler({ temperature, seed, logprobs }),
        maxTokens: maxTokens ?? Math.min(defaultMaxTokens, engine.contextLength - prompt.length),
        stops,
      };
      const sequence = engine.begin(seat, this.#steps, prompt);
      for await (const piece of continueSequence(sequence, options)) yield { ...piece, index };
    }
  }
}

function checkLength(promptLength: number, maxTokens: number, contextLength: number): void {
  if (promptLength === 0)
    throw new OpenAiError(400, "prompt is empty; it must have at least one character", "prompt");
  if (promptLength + maxTokens <= contextLength) return;
  throw new OpenAiError(
    400,
    `this model's maximum context length is ${contextLength} tokens of one byte each; the request has ${promptLength} in the prompt and ${maxTokens} for the completion`,
    promptLength >= contextLength ? "prompt" : "max_tokens",
    "context_length_exceeded",
  );
}

function usageOf({ prompts }: Job, completionTokens: number): Usage {
  const promptTokens = prompts.reduce((sum, { length }) => sum + length, 0);
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

/** A token as text. One byte may be a part of a character. */
function nameOf(token: number): string {
  return token < 128 ? String.fromCharCode(token) : `bytes:\\x${token.toString(16)}`;
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

const eventOf = (data: unknown) => `data: ${JSON.stringify(data)}\n\n`;

function errorOf(error: unknown): OpenAiError {
  if (error instanceof OpenAiError) return error;
  const message = error instanceof Error ? error.message : String(error);
  const { name, code } = (error ?? {}) as { readonly name?: unknown; readonly code?: unknown };
  if (name === "AbortError" || code === "ABORTED" || code === "CLOSED")
    return new OpenAiError(503, message, null, "aborted", { "retry-after": "1" });
  process.emitWarning(error instanceof Error ? error : message);
  return new OpenAiError(500, "an internal error; see the server's warnings");
}
