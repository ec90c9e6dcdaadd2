/** Requests and errors in OpenAI's format. */

import Type, { type Static, type TObject } from "typebox";
import { Value } from "typebox/value";

const Stop = Type.Union([Type.String(), Type.Array(Type.String({ minLength: 1 }), { maxItems: 4 })], {
  description: "a text, or up to four",
});

const wholeNumber = (minimum: number, maximum: number) =>
  Type.Integer({ minimum, maximum, description: `a whole number from ${minimum} to ${maximum}` });

const MaxTokens = Type.Optional(Type.Integer({ minimum: 1, description: "a whole number above 0" }));

/** What both endpoints take. Properties that would change the answer, and that the example lacks, must have their default value. */
const generationProperties = {
  model: Type.Optional(Type.String({ description: "a model's name" })),
  max_tokens: MaxTokens,
  temperature: Type.Optional(
    Type.Number({ minimum: 0, maximum: 2, description: "a number from 0 to 2; 0 takes the likeliest token" }),
  ),
  top_p: Type.Optional(
    Type.Number({ exclusiveMinimum: 0, maximum: 1, description: "a number above 0 and up to 1" }),
  ),
  seed: Type.Optional(Type.Integer({ description: "a whole number" })),
  stop: Type.Optional(Stop),
  n: Type.Optional(wholeNumber(1, 8)),
  stream: Type.Optional(Type.Boolean({ description: "true or false" })),
  stream_options: Type.Optional(
    Type.Object({ include_usage: Type.Optional(Type.Boolean()) }, { description: '{"include_usage": true}' }),
  ),
  frequency_penalty: Type.Optional(Type.Literal(0, { description: "0: this example has no penalties" })),
  presence_penalty: Type.Optional(Type.Literal(0, { description: "0: this example has no penalties" })),
};

export type GenerationRequest = Static<TObject<typeof generationProperties>>;

export const CompletionRequest = Type.Object({
  ...generationProperties,
  prompt: Type.Union([Type.String(), Type.Array(Type.String(), { minItems: 1, maxItems: 64 })], {
    description: "a text, or an array of 1 to 64 texts",
  }),
  logprobs: Type.Optional(wholeNumber(0, 5)),
  echo: Type.Optional(Type.Boolean({ description: "true or false" })),
  best_of: Type.Optional(wholeNumber(1, 8)),
  suffix: Type.Optional(Type.Literal("", { description: "empty: this example writes no middles" })),
});

const TextPart = Type.Object({ type: Type.Literal("text"), text: Type.String() });

const Message = Type.Object({
  role: Type.String(),
  content: Type.Optional(Type.Union([Type.String(), Type.Array(TextPart), Type.Null()])),
});

export const ChatRequest = Type.Object({
  ...generationProperties,
  messages: Type.Array(Message, {
    minItems: 1,
    maxItems: 256,
    description: "an array of messages, each with a role and a text as content",
  }),
  max_completion_tokens: MaxTokens,
  logprobs: Type.Optional(Type.Boolean({ description: "true or false" })),
  top_logprobs: Type.Optional(wholeNumber(0, 20)),
  tools: Type.Optional(
    Type.Array(Type.Unknown(), { maxItems: 0, description: "empty: this example calls no tools" }),
  ),
  response_format: Type.Optional(
    Type.Object(
      { type: Type.Literal("text") },
      { description: '{"type": "text"}: this example writes text only' },
    ),
  ),
});

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

/** A failed request, in OpenAI's format. */
export class OpenAiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly param: string | null = null,
    readonly code: string | null = null,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message);
  }

  get body() {
    const type = this.status < 500 ? "invalid_request_error" : "server_error";
    return { error: { message: this.message, type, param: this.param, code: this.code } };
  }

  get response(): Response {
    return Response.json(this.body, { status: this.status, headers: this.headers });
  }
}

/**
 * The JSON body of a request. Unknown properties are ignored, as in vLLM.
 *
 * @throws OpenAiError 400
 */
export async function readRequest<T extends TObject>(schema: T, request: Request): Promise<Static<T>> {
  const body: unknown = await request.json().catch(() => undefined);
  if (typeof body !== "object" || body === null || Array.isArray(body))
    throw new OpenAiError(400, "the body is not a JSON object");
  // Clients send null for properties that they leave to the server.
  const input = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null));
  if (Value.Check(schema, input)) return input;
  for (const [name, property] of Object.entries(schema.properties)) {
    const value = input[name];
    if (value === undefined ? !schema.required?.includes(name) : Value.Check(property, value)) continue;
    const { description } = property as { readonly description?: string };
    throw new OpenAiError(
      400,
      `${name} is ${value === undefined ? "missing" : format(value)}; it must be ${description}`,
      name,
    );
  }
  throw new OpenAiError(400, "the body does not fit");
}

function format(value: unknown): string {
  if (typeof value === "object") return Array.isArray(value) ? "an array" : "an object";
  return JSON.stringify(value).slice(0, 80);
}
