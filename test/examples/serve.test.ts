/** Completions from a running example server whose models sleep and wake. */

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { ExampleServer } from "../../examples/serve/server.ts";
import { granulesBetween, wholeGranules } from "../support/device.ts";
import { ServeClient } from "./serve-client.ts";
import {
  answer,
  ask,
  defaults,
  expected,
  kvCacheBytes,
  model,
  prompt,
  reference,
  twin,
} from "./serve-fixture.ts";

describe("ExampleServer", () => {
  let server: ExampleServer;
  let client: ServeClient;

  beforeAll(async () => {
    server = await ExampleServer.start(defaults);
    client = new ServeClient(server.url);
  });

  beforeEach(async () => {
    for (const name of [model, twin]) await client.post(`/wake_up?model=${name}`);
  });

  afterAll(async () => {
    await server.stop();
  });

  test("/v1/completions returns the reference text and counts tokens", async () => {
    const [status, body] = await client.complete({ ...ask, max_tokens: 120 });
    expect(status).toBe(200);
    expect(body).toMatchObject({
      object: "text_completion",
      model,
      choices: [{ index: 0, text: expected(prompt, 120), logprobs: null, finish_reason: "length" }],
      usage: { prompt_tokens: 16, completion_tokens: 120, total_tokens: 136 },
    });
    expect(body.id).toStartWith("cmpl-");
  });

  test("/v1/completions returns the same text after level 1, three times, and no memory is lost", async () => {
    const awakeBytes = await client.freeBytes();
    for (let cycle = 0; cycle < 3; cycle++) {
      expect(await client.text(ask)).toBe(answer);
      expect(await client.post(`/sleep?level=1&model=${model}`)).toEqual([
        200,
        { status: "sleeping", level: 1 },
      ]);
      expect((await client.freeBytes()) - awakeBytes).toBeGreaterThanOrEqual(kvCacheBytes + 1_542_400);
      expect(await client.get(`/is_sleeping?model=${model}`)).toEqual({ is_sleeping: true });
      await client.post(`/wake_up?model=${model}`);
      expect(granulesBetween(await client.freeBytes(), awakeBytes)).toBe(0);
    }
    expect(await client.text(ask)).toBe(answer);
  });

  test("/wake_up takes memory tag by tag and admits requests only after the last", async () => {
    await client.post(`/sleep?level=1&model=${model}`);
    const asleepBytes = await client.freeBytes();
    await client.post(`/wake_up?model=${model}&tags=weights&tags=buffers`);
    const weightsBytes = asleepBytes - (await client.freeBytes());
    expect(weightsBytes).toBeGreaterThanOrEqual(1_542_400);
    expect(await client.state(model)).toBe("asleep");
    await client.post(`/wake_up?model=${model}&tags=kv_cache`);
    expect(asleepBytes - (await client.freeBytes()) - weightsBytes).toBeGreaterThan(weightsBytes);
    expect(await client.state(model)).toBe("awake");
    expect(await client.text(ask)).toBe(answer);
  });

  test("/v1/completions returns the same text and log-probabilities after level 2", async () => {
    const question = { ...ask, logprobs: 5 };
    const [, before] = await client.complete(question);
    await client.post(`/sleep?level=2&model=${model}`);
    expect((await client.usage()).engines[model]?.tags["weights"]).toMatchObject({
      mappedBytes: 0,
      hostBytes: 0,
    });
    const [status, after] = await client.complete(question);
    expect(status).toBe(200);
    expect(after.choices).toEqual(before.choices);
    const drift = after.choices[0]?.logprobs?.token_logprobs ?? [];
    expect(drift.length).toBe(40);
    expect(Math.max(...drift)).toBeLessThanOrEqual(0);
  });

  test.each([1, 2])(
    "/v1/completions is held and wakes the model when it sleeps at level %d",
    async (level) => {
      await client.post(`/sleep?level=${level}&model=${model}`);
      expect((await client.fetch("/health")).status).toBe(200);
      const [texts, chunks] = await Promise.all([
        Promise.all(Array.from({ length: 4 }, () => client.text(ask))),
        client.stream(ask),
      ]);
      expect(texts).toEqual([answer, answer, answer, answer]);
      expect(chunks.map(({ choices }) => choices[0]?.text).join("")).toBe(answer);
      expect(await client.state(model)).toBe("awake");
    },
  );

  test("stream continues where a sleep in mode keep halted it, although its cache is lost", async () => {
    const question = { model, prompt: "The whale", max_tokens: 240 };
    const whole = await client.text(question);
    const halted = client.stream(question);
    while ((await client.usage()).engines[model]?.status.requests.running !== 1) await Bun.sleep(1);
    await client.post(`/sleep?level=1&mode=keep&model=${model}`);
    expect((await client.usage()).engines[model]?.status.requests.parked).toBe(1);
    await client.post(`/wake_up?model=${model}`);
    expect((await halted).map(({ choices }) => choices[0]?.text).join("")).toBe(whole);
    expect(whole).toStartWith(expected("The whale", 120));
  });

  test("/sleep in mode abort ends requests and streams with their text so far", async () => {
    const question = { ...ask, max_tokens: 240 };
    const complete = await client.text(question);
    const whole = client.complete({ ...question, prompt: [prompt, prompt] });
    const stream = client.stream({ ...question, stream_options: { include_usage: true } });
    const running = async () => (await client.usage()).engines[model]?.status.requests.running;
    while ((await running()) !== 2) await Bun.sleep(1);
    await client.post(`/sleep?level=1&mode=abort&model=${model}`);
    const [status, { choices, usage }] = await whole;
    expect([status, ...choices.map((choice) => choice.finish_reason)]).toEqual([200, "abort", "abort"]);
    expect(complete).toStartWith(choices[0]?.text ?? "missing");
    expect(choices[0]?.text).not.toBe(complete);
    expect(usage?.["completion_tokens"]).toBeLessThan(240);
    const chunks = await stream;
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe("abort");
    expect(chunks.at(-1)?.usage?.["completion_tokens"]).toBeLessThan(240);
    expect(complete).toStartWith(chunks.map((chunk) => chunk.choices[0]?.text ?? "").join(""));
    expect(await client.text(ask)).toBe(answer);
  });

  test("stream returns the same text in pieces, also for characters of several bytes", async () => {
    for (const { prompt: text } of reference) {
      const question = { model, prompt: text, max_tokens: 120, logprobs: 1 };
      const chunks = await client.stream({ ...question, stream_options: { include_usage: true } });
      const [, { choices, usage }] = await client.complete(question);
      const pieces = chunks.flatMap((chunk) => chunk.choices);
      expect(pieces.map((piece) => piece.text).join("")).toBe(expected(text, 120));
      expect(choices[0]?.text).toBe(expected(text, 120));
      expect(pieces.flatMap(({ logprobs }) => logprobs?.tokens ?? [])).toEqual([
        ...(choices[0]?.logprobs?.tokens ?? []),
      ]);
      expect(pieces.map((piece) => piece.finish_reason).filter((reason) => reason !== null)).toEqual([
        "length",
      ]);
      expect(chunks.at(-1)).toMatchObject({ choices: [], usage: usage ?? {} });
    }
  });

  test("/v1/completions answers several prompts by their index", async () => {
    const prompts = reference.map((one) => one.prompt);
    const [, { choices, usage }] = await client.complete({ model, prompt: prompts, max_tokens: 20 });
    expect(choices.map(({ index, text }) => [index, text])).toEqual(
      prompts.map((text, index) => [index, expected(text, 20)]),
    );
    expect(usage?.["completion_tokens"]).toBe(60);
    const chunks = await client.stream({ model, prompt: prompts, max_tokens: 20 });
    for (const [index, text] of prompts.entries()) {
      const own = chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index);
      expect(own.map((choice) => choice.text).join("")).toBe(expected(text, 20));
    }
  });

  test("/v1/completions ends before a stop text, streamed or not", async () => {
    const question = { ...ask, max_tokens: 100, stop: ["stranger of", "never there"] };
    const [, { choices }] = await client.complete(question);
    expect(choices[0]).toMatchObject({ text: " The ship was a strange ", finish_reason: "stop" });
    const chunks = await client.stream(question);
    expect(chunks.map((chunk) => chunk.choices[0]?.text).join("")).toBe(" The ship was a strange ");
    expect(chunks.at(-1)?.choices[0]?.finish_reason).toBe("stop");
  });

  test("temperature varies the text by seed and repeats it for one seed", async () => {
    const draw = (seed: number) => client.text({ ...ask, temperature: 1, seed });
    const texts = await Promise.all([draw(1), draw(1), draw(2)]);
    expect(texts[1]).toBe(texts[0] ?? "");
    expect(texts[2]).not.toBe(texts[0] ?? "");
  });

  test("/v1/models lists models that sleep", async () => {
    await client.post(`/sleep?model=${model}`);
    const { object, data } = await client.get<{ object: string; data: { id: string; object: string }[] }>(
      "/v1/models",
    );
    expect([object, ...data.map((one) => `${one.object} ${one.id}`)]).toEqual([
      "list",
      `model ${model}`,
      `model ${twin}`,
    ]);
    expect(await client.get(`/v1/models/${twin}`)).toMatchObject({ id: twin, max_model_len: 256 });
    expect((await client.fetch("/v1/models/none")).status).toBe(404);
    expect(await client.state(model)).toBe("asleep");
  });

  test("/metrics reports the state and the free memory of the models", async () => {
    const line = async (start: string) =>
      (await (await client.fetch("/metrics")).text()).split("\n").find((one) => one.startsWith(start));
    const offloaded = `vllm:engine_sleep_state{engine="0",model_name="${model}",sleep_state="weights_offloaded"}`;
    expect(await line(offloaded)).toBe(`${offloaded} 0`);
    await client.post(`/sleep?model=${model}`);
    expect(await line(offloaded)).toBe(`${offloaded} 1`);
    expect(await line("camem_device_free_bytes")).toBe(
      `camem_device_free_bytes{device="0"} ${await client.freeBytes()}`,
    );
  });

  const bad: [string, unknown, number, string | null][] = [
    ["a body that is not JSON", "{", 400, null],
    ["an array", [], 400, null],
    ["no prompt", { model }, 400, "prompt"],
    ["an empty prompt", { model, prompt: "" }, 400, "prompt"],
    ["a prompt of numbers", { model, prompt: [1] }, 400, "prompt"],
    ["no model", { prompt }, 400, "model"],
    ["an unknown model", { ...ask, model: "gpt" }, 404, "model"],
    ["no tokens", { ...ask, max_tokens: 0 }, 400, "max_tokens"],
    ["more than the context", { ...ask, max_tokens: 241 }, 400, "max_tokens"],
    ["a prompt beyond the context", { model, prompt: "x".repeat(300) }, 400, "prompt"],
    ["an invalid temperature", { ...ask, temperature: "hot" }, 400, "temperature"],
    ["five stops", { ...ask, stop: ["a", "b", "c", "d", "e"] }, 400, "stop"],
    ["nine answers", { ...ask, n: 9 }, 400, "n"],
    ["another best_of", { ...ask, n: 2, best_of: 3 }, 400, "best_of"],
    ["echo with log-probabilities", { ...ask, echo: true, logprobs: 1 }, 400, "echo"],
    ["an empty nucleus", { ...ask, top_p: 0 }, 400, "top_p"],
    ["stream as text", { ...ask, stream: "yes" }, 400, "stream"],
  ];
  test.each(bad)(
    "/v1/completions refuses %s with an error in OpenAI's format",
    async (_what, body, expectedStatus, param) => {
      const [status, { error }] = await client.complete(body);
      expect([status, error?.type, error?.param]).toEqual([expectedStatus, "invalid_request_error", param]);
      expect(error?.message).not.toBe("");
    },
  );

  test("/v1/completions takes null as a default and ignores unknown fields", async () => {
    expect(await client.text({ ...ask, stop: null, n: 1, user: "me", logit_bias: null })).toBe(answer);
  });

  test("server refuses other methods and paths", async () => {
    expect((await client.fetch("/v1/completions")).status).toBe(405);
    expect((await client.fetch("/v1/nothing")).status).toBe(404);
    expect(await (await client.fetch("/wakeup", { method: "POST" })).text()).toContain("use /wake_up");
    const listed = (await (await client.fetch("/")).text()).split("\n");
    expect(listed).toContain("/v1/completions");
    expect(listed).toContain("/sleep");
    expect(listed).not.toContain("/camem/page.css");
    expect((await client.post("/sleep"))[0]).toBe(400);
  });

  test("server frees the place of a client that disconnects", async () => {
    const leaving = new AbortController();
    const response = await client.fetch("/v1/completions", {
      method: "POST",
      body: JSON.stringify({ ...ask, max_tokens: 240, stream: true }),
      signal: leaving.signal,
    });
    await response.body?.getReader().read();
    leaving.abort();
    while ((await client.usage()).engines[model]?.status.requests.running !== 0) await Bun.sleep(1);
    expect(await client.text(ask)).toBe(answer);
  });

  test("server answers /health while it generates text", async () => {
    let over = false;
    const texts = Promise.all(
      Array.from({ length: 20 }, () => client.text({ model, prompt: "x".repeat(200), max_tokens: 20 })),
    ).finally(() => {
      over = true;
    });
    let answered = 0;
    while (!over) answered += Number((await client.fetch("/health")).ok);
    await texts;
    expect(answered).toBeGreaterThan(20);
  });

  test("200 concurrent completions are correct across sleeps and wake-ups", async () => {
    let over = false;
    const asked = Promise.all(
      Array.from({ length: 200 }, async (_, index) => {
        const { prompt: text } = reference[index % reference.length] ?? { prompt };
        const length = 1 + (index % 8);
        const question = { model: index % 2 ? model : twin, prompt: text, max_tokens: length };
        const chunks =
          index % 5 === 0 ? await client.stream(question) : [(await client.complete(question))[1]];
        const written = chunks
          .map((chunk) => chunk.choices?.[0]?.text ?? JSON.stringify(chunk.error))
          .join("");
        return written === expected(text, length) ? "right" : written;
      }),
    ).finally(() => {
      over = true;
    });
    const sleeps = ["level=1&mode=keep", "level=2&mode=wait", "level=1&mode=wait", "level=2&mode=keep"];
    const statuses: number[] = [];
    for (let cycle = 0; !over; cycle++) {
      const name = cycle % 2 ? model : twin;
      statuses.push((await client.post(`/sleep?model=${name}&${sleeps[cycle % sleeps.length]}`))[0]);
      if ((await client.usage()).engines[name]?.status.requests.parked)
        await client.post(`/wake_up?model=${name}`);
    }
    expect((await asked).filter((outcome) => outcome !== "right")).toEqual([]);
    // The server may refuse only level 1 right after level 2.
    expect(statuses.filter((status) => status !== 200 && status !== 409)).toEqual([]);
    expect(statuses).toContain(200);
  });

  test("completions wait when the cache has no room", async () => {
    const places = kvCacheBytes / (512 * 1024);
    const texts = await Promise.all(
      Array.from({ length: places + 30 }, () => client.text({ ...ask, max_tokens: 2 })),
    );
    expect(texts).toEqual(Array.from({ length: places + 30 }, () => expected(prompt, 2)));
  });

  test("requests to two models alternate correctly on a device with room for one", async () => {
    await client.post(`/sleep?model=${twin}`);
    const { freeBytes } = server.allocator.memGetInfo();
    const taken = server.allocator.malloc(wholeGranules(freeBytes), { tag: "sleep_persistent" });
    try {
      for (let round = 0; round < 3; round++) {
        for (const [name, other] of [
          [twin, model],
          [model, twin],
        ] as const) {
          const [status, body] = await client.complete({ ...ask, model: name });
          expect([status, body.model, body.choices[0]?.text]).toEqual([200, name, answer]);
          expect([await client.state(name), await client.state(other)]).toEqual(["awake", "asleep"]);
        }
      }
      const both = await Promise.all(
        [model, twin, model, twin].map((name) => client.text({ ...ask, model: name })),
      );
      expect(both).toEqual([answer, answer, answer, answer]);
    } finally {
      taken.free();
    }
  });
});
