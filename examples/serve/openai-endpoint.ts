/** Answers OpenAI's requests for text: admission, streams, errors. The formats differ by endpoint. */

import { leasedStream, type ModelPool, type ServerInfo } from "camem/server";
import type { AnswerFormat } from "./answer-format.ts";
import { readChatRequest } from "./chat-format.ts";
import type { PlacedToken } from "./continuation.ts";
import type { LlamaEngine } from "./engine.ts";
import { type Generation, generate, usageOf } from "./generation.ts";
import { OpenAiError } from "./openai.ts";
import type { Seat } from "./seat.ts";
import { readTextRequest } from "./text-format.ts";

const readers = { text: readTextRequest, chat: readChatRequest };

/** A valid request, and how to answer it. */
interface Job {
  readonly generation: Generation;
  readonly format: AnswerFormat;
  /** Properties of the answer and of every chunk. */
  readonly head: { readonly id: string; readonly created: number; readonly model: string };
}

export class OpenAiEndpoint {
  readonly #engines: ReadonlyMap<string, LlamaEngine>;
  readonly #pool: ModelPool;

  constructor(engines: readonly LlamaEngine[], pool: ModelPool) {
    this.#engines = new Map(engines.map((engine) => [engine.name, engine]));
    this.#pool = pool;
  }

  async answer(kind: keyof typeof readers, request: Request, server: ServerInfo): Promise<Response> {
    try {
      const [generation, format] = await readers[kind](request, (model) => this.#engineOf(model));
      const { engine, input } = generation;
      const id = `${format.idPrefix}-${crypto.randomUUID()}`;
      const job = {
        generation,
        format,
        head: { id, created: Math.floor(Date.now() / 1000), model: engine.name },
      };
      // The request may wait for a slot of the cache, and the answer for a sleeping model.
      if ("timeout" in server) server.timeout?.(request, 0);
      const seat = await engine.admit(this.#pool, request, server);
      if (seat instanceof Response) return seat;
      return input.stream ? this.#stream(job, seat) : await this.#complete(job, seat);
    } catch (error) {
      return errorOf(error).response;
    }
  }

  /** @throws OpenAiError 400 or 404 */
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

  async #complete({ generation, format, head }: Job, seat: Seat): Promise<Response> {
    using _released = seat;
    const count = generation.prompts.length * (generation.input.n ?? 1);
    const choices = Array.from({ length: count }, (_, index) => ({
      index,
      text: "",
      tokens: [] as PlacedToken[],
      finishReason: "",
    }));
    for await (const { index, text, tokens, finishReason } of generate(generation, seat)) {
      const choice = choices[index];
      if (choice === undefined) continue;
      choice.text += text;
      choice.tokens.push(...tokens);
      choice.finishReason = finishReason ?? "";
    }
    const tokenCount = choices.reduce((sum, { tokens }) => sum + tokens.length, 0);
    return Response.json({
      ...head,
      object: format.object,
      choices: choices.map((choice) => ({
        index: choice.index,
        ...format.choice(choice),
        finish_reason: choice.finishReason,
      })),
      usage: usageOf(generation, tokenCount),
    });
  }

  #stream(job: Job, seat: Seat): Response {
    return new Response(leasedStream(seat, this.#events(job, seat)), {
      headers: { "content-type": "text/event-stream", "cache-control": "no-store" },
    });
  }

  async *#events({ generation, format, head }: Job, seat: Seat): AsyncGenerator<string, void, undefined> {
    const hasUsage = generation.input.stream_options?.include_usage ?? false;
    const event = (index: number, content: object, finishReason: string | null) =>
      eventOf({
        ...head,
        object: format.chunkObject,
        choices: [{ index, ...content, finish_reason: finishReason }],
        ...(hasUsage && { usage: null }),
      });
    let tokenCount = 0;
    let latest = -1;
    try {
      for await (const piece of generate(generation, seat)) {
        tokenCount += piece.tokens.length;
        const first = piece.index > latest ? format.firstChunk(piece.index) : undefined;
        latest = piece.index;
        if (first !== undefined) yield event(piece.index, first, null);
        yield event(piece.index, format.chunk(piece), piece.finishReason);
      }
      const last = {
        ...head,
        object: format.chunkObject,
        choices: [],
        usage: usageOf(generation, tokenCount),
      };
      if (hasUsage) yield eventOf(last);
    } catch (error) {
      yield eventOf(errorOf(error).body);
    }
    yield "data: [DONE]\n\n";
  }
}

const eventOf = (data: unknown) => `data: ${JSON.stringify(data)}\n\n`;

function errorOf(error: unknown): OpenAiError {
  if (error instanceof OpenAiError) return error;
  const message = error instanceof Error ? error.message : String(error);
  const { name, code } = (error ?? {}) as { readonly name?: unknown; readonly code?: unknown };
  if (name === "AbortError" || code === "ABORTED" || code === "CLOSED")
    return new OpenAiError(503, message, null, "aborted", { "retry-after": "1" });
  // emitWarning takes no DOMException, although it is an Error.
  process.emitWarning(error instanceof Error && !(error instanceof DOMException) ? error : message);
  return new OpenAiError(500, "an internal error; see the server's warnings");
}
