import { setTimeout as sleep } from "node:timers/promises";
import { crc32 } from "node:zlib";
import type { CaMemAllocator, DeviceBuffer } from "camem";
import type { Lease } from "camem/server";
import { MiB, pattern } from "./device.ts";

const slotBytes = 4;
const slots = 1024;

export interface FakeEngineOptions {
  /** Prefix of the tags of this engine's memory, such as `qwen/`. */
  readonly prefix?: string;
  readonly seed?: number;
  readonly weightsBytes?: number;
  readonly cacheBytes?: number;
}

/**
 * An engine whose every step depends on weights and a cache in device memory: its output is correct only if both have the
 * correct content.
 */
export class FakeEngine {
  readonly weights: DeviceBuffer;
  readonly cache: DeviceBuffer;
  readonly content: Uint8Array<ArrayBuffer>;
  readonly tags: { readonly weights: string; readonly kv_cache: string };
  #freeSlots = Array.from({ length: slots }, (_, index) => index);

  constructor(allocator: CaMemAllocator, options: FakeEngineOptions = {}) {
    const { prefix = "", seed = 1, weightsBytes = 4 * MiB, cacheBytes = 6 * MiB } = options;
    this.tags = { weights: `${prefix}weights`, kv_cache: `${prefix}kv_cache` };
    this.content = pattern(weightsBytes, seed);
    this.weights = allocator.malloc(weightsBytes, { tag: this.tags.weights });
    this.cache = allocator.malloc(cacheBytes, { tag: this.tags.kv_cache });
    this.load();
  }

  /** Writes the weights to device memory, as from a checkpoint. */
  load(): void {
    this.weights.write(this.content);
  }

  /** The correct output of `generate`, computed on the host. */
  expected(prompt: string, length: number): string {
    let state = seedOf(prompt);
    const text: string[] = [];
    for (let index = 0; index < length; index++) {
      state = next(state, this.content[placeOf(state, this.content.length)] ?? 0);
      text.push(letterOf(state));
    }
    return text.join("");
  }

  /** Yields letters, with a checkpoint before each. */
  async *generate(lease: Lease, prompt: string, length: number): AsyncGenerator<string, void, undefined> {
    const slot = this.#freeSlots.pop();
    if (slot === undefined) throw new Error("the fake engine has no cache slot left");
    try {
      this.#store(slot, seedOf(prompt));
      for (let written = 0; written < length; written++) {
        const { lostTags } = await lease.checkpoint();
        if (lostTags.includes("kv_cache")) this.#recompute(slot, prompt, written);
        const state = this.#step(slot);
        yield letterOf(state);
        await sleep(0);
        lease.signal.throwIfAborted();
      }
    } finally {
      this.#freeSlots.push(slot);
    }
  }

  async complete(lease: Lease, prompt: string, length: number): Promise<string> {
    let text = "";
    for await (const letter of this.generate(lease, prompt, length)) text += letter;
    return text;
  }

  #recompute(slot: number, prompt: string, written: number): void {
    this.#store(slot, seedOf(prompt));
    for (let index = 0; index < written; index++) this.#step(slot);
  }

  #step(slot: number): number {
    const bytes = this.cache.read(slot * slotBytes, slotBytes);
    const state = new DataView(bytes.buffer).getUint32(0, true);
    const weight = this.weights.read(placeOf(state, this.content.length), 1)[0] ?? 0;
    const following = next(state, weight);
    this.#store(slot, following);
    return following;
  }

  #store(slot: number, state: number): void {
    this.cache.write(Uint32Array.of(state), slot * slotBytes);
  }
}

const seedOf = (prompt: string) => crc32(prompt);
const placeOf = (state: number, length: number) => state % length;
const next = (state: number, weight: number) => (Math.imul(state, 1664525) + weight * 40503 + 12345) >>> 0;
const letterOf = (state: number) => String.fromCharCode(97 + ((state >>> 16) % 26));

/** Resolves when `condition` holds; the timeout of the test limits it. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(1);
}
