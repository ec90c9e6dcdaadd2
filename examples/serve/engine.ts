import { join } from "node:path";
import type { CaMemAllocator } from "camem";
import { admitRequest, type ModelPool, type ServerInfo, SleepController } from "camem/server";
import { TinyLlama } from "../tiny-llama/model.ts";
import { Seat } from "./seat.ts";
import { Sequence, type StepTurns } from "./sequence.ts";
import { Slots } from "./slots.ts";

export const modelDirectory = join(import.meta.dir, "../tiny-llama/model");

/** A copy of the example model, its memory under tags of its own, and what lets it sleep. */
export class LlamaEngine implements AsyncDisposable {
  readonly controller: SleepController;
  readonly #model: TinyLlama;
  readonly #slots: Slots;

  /** @throws CamemError as `malloc` and `loadSafetensors`, with nothing left behind */
  static async load(name: string, allocator: CaMemAllocator, kvCacheBytes: number): Promise<LlamaEngine> {
    const tags = { weights: `${name}/weights`, kv_cache: `${name}/kv_cache`, buffers: `${name}/buffers` };
    const model = await TinyLlama.load(modelDirectory, allocator, kvCacheBytes, tags);
    const controller = new SleepController(allocator, {
      name,
      tags: { ...tags },
      reload: () => model.reloadWeights(),
      // The pool wakes it. What else keeps it from serving, such as a pause, requests wait for.
      whenAsleep: "hold",
    });
    return new LlamaEngine(controller, model);
  }

  private constructor(controller: SleepController, model: TinyLlama) {
    this.controller = controller;
    this.#model = model;
    this.#slots = new Slots(model.sequences);
  }

  get name(): string {
    return this.controller.name;
  }

  /** How many tokens a prompt and what follows it can have together. */
  get contextLength(): number {
    return this.#model.config.max_position_embeddings;
  }

  /**
   * Lets a request in, or gives the answer that refuses it. Where the cache is full, the request gives its lease back while it
   * waits, so that it keeps no memory from moving.
   */
  async admit(pool: ModelPool, request: Request, server: ServerInfo): Promise<Seat | Response> {
    const admit = () => admitRequest(pool, request, { model: this.name, server });
    const lease = await admit();
    if (lease instanceof Response) return lease;
    const free = this.#slots.tryTake();
    if (free !== undefined) return new Seat(lease, this.#slots, free);
    lease.release();
    const slot = await this.#slots.take(request.signal);
    const second = await admit();
    if (!(second instanceof Response)) return new Seat(second, this.#slots, slot);
    this.#slots.give(slot);
    return second;
  }

  begin(seat: Seat, turns: StepTurns, prompt: Uint8Array): Sequence {
    return new Sequence(this.#model, seat, turns, prompt);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.controller.close();
    this.#model.free();
  }
}
