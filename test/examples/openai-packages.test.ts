/** The clients that people use, with their defaults: openai, LangChain, LlamaIndex and the AI SDK. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage, SystemMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAI as LangChainOpenAI } from "@langchain/openai";
import { openai as llamaIndexOpenAI } from "@llamaindex/openai";
import { generateText, streamText } from "ai";
import OpenAI from "openai";
import { ExampleServer } from "../../examples/serve/server.ts";
import { defaults, expected, model } from "./serve-fixture.ts";

const apiKey = "sk-example";
/** The chat template writes each message on a line of its own. */
const question = "Call me Ishmael.";

let server: ExampleServer;
let baseURL: string;
/** The text for `question`, to the end of the context, as a plain request gets it. */
let answer: string;

beforeAll(async () => {
  server = await ExampleServer.start({ ...defaults, models: [model], apiKey });
  baseURL = `${server.url}v1`;
  const client = new OpenAI({ baseURL, apiKey });
  const whole = await client.completions.create({ model, prompt: `${question}\n`, max_tokens: 239 });
  answer = whole.choices[0]?.text ?? "";
  expect(new TextEncoder().encode(answer)).toHaveLength(239);
});

afterAll(() => server.stop());

describe("openai", () => {
  test("chat.completions.create() answers, streams and counts", async () => {
    const client = new OpenAI({ baseURL, apiKey });
    const messages = [{ role: "user" as const, content: question }];
    const whole = await client.chat.completions.create({ model, messages });
    expect(whole.choices[0]).toMatchObject({
      finish_reason: "length",
      message: { role: "assistant", content: answer },
    });
    expect(whole.usage).toEqual({ prompt_tokens: 17, completion_tokens: 239, total_tokens: 256 });
    const stream = await client.chat.completions.create({
      model,
      messages,
      stream: true,
      stream_options: { include_usage: true },
      max_completion_tokens: 40,
      logprobs: true,
      top_logprobs: 2,
    });
    let text = "";
    const usages: unknown[] = [];
    let logprobs = 0;
    for await (const { choices, usage } of stream) {
      text += choices[0]?.delta.content ?? "";
      logprobs += choices[0]?.logprobs?.content?.length ?? 0;
      usages.push(usage);
    }
    expect(answer).toStartWith(text);
    expect(logprobs).toBe(40);
    expect(text.length).toBeGreaterThan(30);
    expect(usages.at(-1)).toEqual({ prompt_tokens: 17, completion_tokens: 40, total_tokens: 57 });
    expect(usages.slice(0, -1).every((usage) => usage === null)).toBe(true);
  });

  test("completions.create() obeys n, seed, top_p, stop and echo", async () => {
    const client = new OpenAI({ baseURL, apiKey });
    const sampled = { model, prompt: question, max_tokens: 30, temperature: 1, seed: 7 };
    const textsOf = async (more: object) =>
      (await client.completions.create({ ...sampled, ...more })).choices.map(({ text }) => text);
    const two = await textsOf({ n: 2 });
    expect(await textsOf({ n: 2, best_of: 2 })).toEqual(two);
    expect(await textsOf({})).toEqual(two.slice(0, 1));
    expect(two[0]).not.toBe(two[1]);
    const greedy = expected(question, 30);
    expect(await textsOf({ top_p: 0.001 })).toEqual([greedy]);
    expect(await textsOf({ top_p: 0.9 })).not.toEqual([greedy]);
    expect(await textsOf({ temperature: 0, echo: true })).toEqual([question + greedy]);
    const word = greedy.trim().split(" ")[1] ?? "";
    expect(await textsOf({ temperature: 0, stop: word })).toEqual([greedy.slice(0, greedy.indexOf(word))]);
    const stream = await client.completions.create({
      ...sampled,
      temperature: 0,
      n: 2,
      echo: true,
      stream: true,
    });
    const streamed = ["", ""];
    for await (const { choices } of stream)
      for (const { index, text } of choices) streamed[index] = `${streamed[index]}${text}`;
    expect(streamed).toEqual([question + greedy, question + greedy]);
  });

  test("errors are the package's own", async () => {
    const create = (key: string, body: object) =>
      new OpenAI({ baseURL, apiKey: key, maxRetries: 0 }).chat.completions
        .create({ model, messages: [{ role: "user", content: question }], ...body } as never)
        .then(
          () => "none",
          (error: unknown) => error,
        );
    expect(await create("sk-wrong", {})).toBeInstanceOf(OpenAI.AuthenticationError);
    expect(await create(apiKey, { model: "gpt" })).toBeInstanceOf(OpenAI.NotFoundError);
    const tools = [{ type: "function", function: { name: "f", parameters: {} } }];
    expect(await create(apiKey, { tools })).toMatchObject({ status: 400, param: "tools" });
    const messages = [{ role: "user", content: "x".repeat(300) }];
    expect(await create(apiKey, { messages })).toMatchObject({ code: "context_length_exceeded" });
  });

  test("models.list() names the model", async () => {
    const names: string[] = [];
    for await (const { id } of new OpenAI({ baseURL, apiKey }).models.list()) names.push(id);
    expect(names).toEqual([model]);
  });
});

describe("LangChain", () => {
  const configuration = () => ({ model, apiKey, configuration: { baseURL } });

  test("ChatOpenAI answers and streams", async () => {
    const chat = new ChatOpenAI(configuration());
    expect((await chat.invoke(question)).text).toBe(answer);
    let text = "";
    for await (const chunk of await chat.stream([new HumanMessage(question)])) text += chunk.text;
    expect(text).toBe(answer);
    const short = new ChatOpenAI({ ...configuration(), maxTokens: 5 });
    const reply = await short.invoke([new SystemMessage("Of whales."), new HumanMessage(question)]);
    expect(reply).toMatchObject({ usage_metadata: { input_tokens: 28 } });
  });

  test("OpenAI continues a prompt", async () => {
    const chunks: string[] = [];
    const completion = new LangChainOpenAI(configuration());
    expect(await completion.invoke(question)).toStartWith(expected(question, 16));
    for await (const chunk of await completion.stream(question)) chunks.push(chunk);
    expect(chunks.join("")).toStartWith(expected(question, 16));
  });
});

describe("LlamaIndex", () => {
  test("openai() answers and streams", async () => {
    const llm = llamaIndexOpenAI({ model, apiKey, baseURL, temperature: 0 });
    const messages = [{ role: "user" as const, content: question }];
    expect((await llm.chat({ messages })).message.content).toBe(answer);
    let text = "";
    for await (const { delta } of await llm.chat({ messages, stream: true })) text += delta;
    expect(text).toBe(answer);
    expect((await llm.complete({ prompt: question })).text).toBe(answer);
  });

  test("openai() works with its default temperature", async () => {
    const llm = llamaIndexOpenAI({ model, apiKey, baseURL });
    const messages = [{ role: "user" as const, content: question.repeat(12) }];
    expect((await llm.chat({ messages })).message.content.length).toBeGreaterThan(20);
  });
});

describe("AI SDK", () => {
  const provider = () => createOpenAICompatible({ name: "example", baseURL, apiKey, includeUsage: true });

  test("generateText() and streamText() answer", async () => {
    const { text, finishReason, usage } = await generateText({ model: provider()(model), prompt: question });
    expect([text, finishReason, usage.outputTokens]).toEqual([answer, "length", 239]);
    const stream = streamText({
      model: provider()(model),
      system: "Of whales.",
      prompt: question,
      maxOutputTokens: 9,
    });
    expect((await stream.text).length).toBeGreaterThan(5);
    expect((await stream.usage).inputTokens).toBe(28);
  });

  test("generateText() continues a prompt through the completion model", async () => {
    const { text } = await generateText({
      model: provider().completionModel(model),
      prompt: question,
      maxOutputTokens: 20,
    });
    expect(new TextEncoder().encode(text)).toHaveLength(20);
  });
});
