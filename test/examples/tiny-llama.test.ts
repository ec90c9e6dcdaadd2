import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { CaMemAllocator, type DeviceBuffer } from "camem";
import { GreedyDecoder, generate } from "../../examples/tiny-llama/greedy-decoder.ts";
import { TinyLlama } from "../../examples/tiny-llama/model.ts";
import { codeOf } from "../support/device.ts";
import { rejectionMessage, rejectionOf } from "../support/rejection.ts";

interface Reference {
  readonly prompt: string;
  /** One character for each byte, as in Latin-1. */
  readonly greedy_120_bytes: string;
  readonly first_token_top5: readonly (readonly [token: number, logit: number])[];
}

const directory = join(import.meta.dir, "../../examples/tiny-llama/model");
const references: Reference[] = await Bun.file(join(directory, "reference.json")).json();
const kvCacheBytes = 8 * 1024 * 1024;
const byteCount = 120;

function bytesOf(latin1: string): Uint8Array {
  return Uint8Array.from(latin1, (character) => character.charCodeAt(0));
}

let allocator: CaMemAllocator;
let model: TinyLlama;

beforeAll(() => {
  allocator = CaMemAllocator.getInstance();
});

afterAll(async () => {
  await allocator.close();
});

beforeEach(async () => {
  model = await TinyLlama.load(directory, allocator, kvCacheBytes);
});

afterEach(() => {
  model.free();
});

describe.each(references)("after the prompt $prompt", ({ prompt, greedy_120_bytes, first_token_top5 }) => {
  const promptBytes = new TextEncoder().encode(prompt);
  const expected = bytesOf(greedy_120_bytes);

  test("model computes the five highest logits of the reference", async () => {
    const logits = [...(await model.forward(promptBytes, 0)).entries()];
    const highest = logits.sort((left, right) => right[1] - left[1]).slice(0, 5);
    expect(highest.map(([token]) => token)).toEqual(first_token_top5.map(([token]) => token));
    for (const [index, [, logit]] of first_token_top5.entries()) {
      expect(Math.abs((highest[index]?.[1] ?? Number.NaN) - logit)).toBeLessThan(1e-2);
    }
  });

  test("model generates the bytes of the reference", async () => {
    expect(await generate(model, promptBytes, byteCount)).toEqual(expected);
  });

  test("model generates the bytes of the reference from the begin of an ordered wake-up on", async () => {
    await allocator.sleep();
    const wake = allocator.wakeUp({ order: model.wakeOrder });
    const ready = (memory: readonly DeviceBuffer[]) => wake.ready(memory);
    expect(await generate(model, promptBytes, byteCount, { ready })).toEqual(expected);
    await wake;
  });

  /** Half of the text, then `interruption`, then the other half by the same decoder. */
  async function generateAround(interruption: () => Promise<void>): Promise<Uint8Array> {
    const decoder = new GreedyDecoder(model, promptBytes);
    const bytes = new Uint8Array(byteCount);
    for (let index = 0; index < byteCount; index++) {
      if (index === byteCount / 2) {
        await interruption();
        decoder.forgetCache();
      }
      bytes[index] = await decoder.next();
    }
    return bytes;
  }

  test("model generates the same bytes across a sleep at level 1", async () => {
    const bytes = await generateAround(async () => {
      await allocator.sleep({ level: 1 });
      expect(await codeOf(() => model.forward(promptBytes, 0))).toBe("BUFFER_ASLEEP");
      await allocator.wakeUp();
    });
    expect(bytes).toEqual(expected);
  });

  test("model generates the same bytes across a sleep at level 2 with a staged wake-up and a reload", async () => {
    const bytes = await generateAround(async () => {
      await allocator.sleep({ level: 2 });
      await allocator.wakeUp({ tags: ["weights", "buffers"] });
      await model.reloadWeights();
      expect(allocator.isSleeping).toBe(true);
      await allocator.wakeUp({ tags: ["kv_cache"] });
      expect(allocator.isSleeping).toBe(false);
    });
    expect(bytes).toEqual(expected);
  });
});

test("sleep({ level: 2 }) keeps no weights in host memory", async () => {
  const prompt = new TextEncoder().encode("The whale");
  const before = await model.forward(prompt, 0);
  await allocator.sleep({ level: 2 });
  await allocator.wakeUp();
  expect(await model.forward(prompt, 0)).not.toEqual(before);
  await model.reloadWeights();
  expect(await model.forward(prompt, 0)).toEqual(before);
});

test("model attends to the last 256 bytes in longer texts", async () => {
  const text = [...bytesOf("Call me Ishmael. ".repeat(15))];
  expect(text.length).toBeLessThan(256);
  const decoder = new GreedyDecoder(model, Uint8Array.from(text));
  for (let step = 0; step < 5; step++) {
    const logits = await model.forward(Uint8Array.from(text.slice(-256)), 0);
    const byte = await decoder.next();
    expect(byte).toBe(logits.indexOf(Math.max(...logits)));
    text.push(byte);
  }
  expect(text.length).toBeGreaterThan(256);
});

test("load() frees what it allocated when it fails", async () => {
  const usage = allocator.getCurrentUsage();
  const totalBytes = allocator.memGetInfo().totalBytes;
  await rejectionOf(TinyLlama.load(directory, allocator, totalBytes));
  await rejectionOf(TinyLlama.load(join(directory, "missing"), allocator, kvCacheBytes));
  expect(allocator.getCurrentUsage()).toBe(usage);
});

test("load() refuses a key-value cache that is too small and names the size needed", async () => {
  const usage = allocator.getCurrentUsage();
  expect(await rejectionMessage(TinyLlama.load(directory, allocator, 1000))).toContain("524288");
  expect(allocator.getCurrentUsage()).toBe(usage);
});
