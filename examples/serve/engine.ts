import { join } from "node:path";
import type { CaMemAllocator } from "camem";
import { admitRequest, type ModelPool, type ServerInfo, SleepController } from "camem/server";
import { TinyLlama } from "../tiny-llama/model.ts";
import { Seat } from "./seat.ts";
import { Sequence, StepQueue } from "./sequence.ts";
import { Slots } from "./slots.ts";

export const modelDirectory = join(import.meta.dirname, "../tiny-llama/model");

interface EngineOptions {
  readonly kvCacheBytes: number;
  /** What happens to a request while the engine is paused. */
  readonly whenPaused: "hold" | "refuse";
}

/** A copy of the example model, with its own tags and its own controller. */
export class LlamaEngine implements AsyncDisposable {
  readonly controller: SleepController;
  readonly #model: TinyLlama;
  readonly #slots: Slots;
  readonly #steps = new StepQueue();

  /** @throws CamemError as `malloc` and `loadSafetensors`, with nothing left behind */
  static async load(
    name: string,
    allocator: CaMemAllocator,
    { kvCacheBytes, whenPaused }: EngineOptions,
  ): Promise<LlamaEngine> {
    const tags = { weights: `${name}/weights`, kv_cache: `${name}/kv_cache`, buffers: `${name}/buffers` };
    const model = await TinyLlama.load(modelDirectory, allocator, kvCacheBytes, tags);
    const controller = new SleepController(allocator, {
      name,
      tags: { ...tags },
      reload: ({ modelPath }) => {
        if (modelPath !== undefined && ![name, modelDirectory].includes(modelPath))
          throw new Error(`this example loads ${modelDirectory} only, not ${modelPath}`);
        return model.reloadWeights();
      },
      // The first layers compute while the others are still being copied.
      order: () => model.wakeOrder,
      // The pool wakes the engine. Until an operator wakes it, requests are held.
      whenAsleep: "hold",
      whenPaused,
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

  /** The most tokens of a prompt and its continuation together. */
  get contextLength(): number {
    return this.#model.config.max_position_embeddings;
  }

  /**
   * Admits a request, or returns the answer that refuses it. While the request waits for a slot it holds no lease, so that memory
   * can move.
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

  begin(seat: Seat, prompt: Uint8Array): Sequence {
    return new Sequence(this.#model, seat, this.#steps, prompt);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.controller.close();
    this.#model.free();
  }
}
