/** The requests and errors of OpenAI's completions. */

import Type, { type Static } from "typebox";
import { Value } from "typebox/value";

const Stop = Type.Union([Type.String(), Type.Array(Type.String({ minLength: 1 }), { maxItems: 4 })], {
  description: "a text, or up to four",
});

/** Other properties are ignored, as in vLLM. Properties that would change the answer must have their default value. */
const CompletionSchema = Type.Object({
  model: Type.Optional(Type.String({ description: "a model's name" })),
  prompt: Type.Union([Type.String(), Type.Array(Type.String(), { minItems: 1, maxItems: 64 })], {
    description: "a text, or an array of 1 to 64 texts",
  }),
  max_tokens: Type.Optional(Type.Integer({ minimum: 1, description: "a whole number above 0" })),
  temperature: Type.Optional(
    Type.Number({ minimum: 0, maximum: 2, description: "a number from 0 to 2; 0 takes the likeliest token" }),
  ),
  seed: Type.Optional(Type.Integer({ description: "a whole number" })),
  stop: Type.Optional(Stop),
  logprobs: Type.Optional(
    Type.Integer({ minimum: 0, maximum: 5, description: "a whole number from 0 to 5" }),
  ),
  stream: Type.Optional(Type.Boolean({ description: "true or false" })),
  stream_options: Type.Optional(
    Type.Object({ include_usage: Type.Optional(Type.Boolean()) }, { description: '{"include_usage": true}' }),
  ),
  n: Type.Optional(Type.Literal(1, { description: "1: this example writes one text per prompt" })),
  best_of: Type.Optional(Type.Literal(1, { description: "1: this example writes one text per prompt" })),
  echo: Type.Optional(Type.Literal(false, { description: "false: this example does not repeat the prompt" })),
  suffix: Type.Optional(Type.Literal("", { description: "empty: this example writes no middles" })),
  top_p: Type.Optional(Type.Literal(1, { description: "1: this example samples from all tokens" })),
  frequency_penalty: Type.Optional(Type.Literal(0, { description: "0: this example has no penalties" })),
  presence_penalty: Type.Optional(Type.Literal(0, { description: "0: this example has no penalties" })),
});

export type CompletionRequest = Static<typeof CompletionSchema>;

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

/** @throws OpenAiError 400 */
export async function readCompletionRequest(request: Request): Promise<CompletionRequest> {
  const body: unknown = await request.json().catch(() => undefined);
  if (typeof body !== "object" || body === null || Array.isArray(body))
    throw new OpenAiError(400, "the body is not a JSON object");
  // Clients send null for properties that they leave to the server.
  const input = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null));
  if (Value.Check(CompletionSchema, input)) return input;
  for (const [name, schema] of Object.entries(CompletionSchema.properties)) {
    const value = input[name];
    if (value === undefined ? name !== "prompt" : Value.Check(schema, value)) continue;
    const { description } = schema as { readonly description?: string };
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
