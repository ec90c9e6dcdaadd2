import { join } from "node:path";
import { type CaMemAllocator, type DeviceBuffer, loadSafetensors, type Tensor } from "camem";
import { type LlamaConfig, readConfig } from "./config.ts";
import { KvCache } from "./kv-cache.ts";
import { addTo, attend, linear, rmsNorm, rotate, swiGlu } from "./math.ts";
import { RopeTables } from "./rope-tables.ts";
import { Weights } from "./weights.ts";

/** The tags of a model's memory. Each model on a shared allocator has its own. */
interface ModelTags {
  readonly weights: string;
  readonly kv_cache: string;
  readonly buffers: string;
}

const defaultTags: ModelTags = { weights: "weights", kv_cache: "kv_cache", buffers: "buffers" };

/**
 * A Llama model with weights, key-value cache and rotary tables in device memory, each under its own tag. It accesses them only by
 * AscendCL copies, so it runs on the emulator and on an NPU alike. Only the arithmetic runs on the host.
 */
export class TinyLlama {
  readonly config: LlamaConfig;
  /** The sum of the tensors' sizes. */
  readonly weightsBytes: number;
  readonly #parts: Parts;
  readonly #weights: Weights;

  static async load(
    directory: string,
    allocator: CaMemAllocator,
    kvCacheBytes: number,
    tags: ModelTags = defaultTags,
  ): Promise<TinyLlama> {
    const config = await readConfig(directory);
    const checkpointPath = join(directory, "model.safetensors");
    // Frees these allocations if a later step fails; at the end the model owns them.
    using owned = new DisposableStack();
    const cache = owned.adopt(new KvCache(allocator, config, kvCacheBytes, tags.kv_cache), (part) =>
      part.free(),
    );
    const ropeTables = owned.adopt(new RopeTables(allocator, config, tags.buffers), (part) => part.free());
    const tensors = await loadSafetensors(checkpointPath, { allocator, tag: tags.weights });
    for (const { buffer } of tensors.values()) owned.use(buffer);
    return new TinyLlama({
      config,
      checkpointPath,
      allocator,
      tensors,
      cache,
      ropeTables,
      owned: owned.move(),
    });
  }

  private constructor(parts: Parts) {
    this.config = parts.config;
    this.#parts = parts;
    this.#weights = new Weights(parts.tensors);
    this.weightsBytes = parts.tensors.values().reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  }

  /** The number of sequences that fit in the key-value cache. */
  get sequences(): number {
    return this.#parts.cache.sequences;
  }

  /** Loads the checkpoint into the tensors again, at the same addresses. Needed after a level 2 sleep. */
  async reloadWeights(): Promise<void> {
    const { checkpointPath, allocator, tensors } = this.#parts;
    await loadSafetensors(checkpointPath, { allocator, into: tensors });
  }

  /**
   * All memory in the order in which a forward pass uses it: what every layer needs, then layer by layer. Give it to `wakeUp`, so
   * that the first layers compute while the others are copied.
   */
  get wakeOrder(): readonly (readonly DeviceBuffer[])[] {
    const { cache, ropeTables } = this.#parts;
    const layers = Array.from({ length: this.config.num_hidden_layers }, (_, layer) =>
      this.#layerBuffers(layer),
    );
    const first = [cache.buffer, ...ropeTables.buffers, ...this.#weights.buffersOf(embeddingName)];
    return [first, ...layers, this.#weights.buffersOf(lastNormName)];
  }

  #layerBuffers(layer: number): readonly DeviceBuffer[] {
    return this.#weights.buffersOf(`model.layers.${layer}.`);
  }

  /** Frees all device memory of the model. */
  free(): void {
    this.#parts.owned.dispose();
  }

  /**
   * Runs `tokens` from `startPosition` on. The cache must hold every earlier position of the sequence. All tokens go through a layer
   * together, so each weight is read once. During a wake-up, `ready` of that waits for the memory of each layer.
   *
   * @returns the logits of the token after the last one
   */
  async forward(
    tokens: Uint8Array,
    startPosition: number,
    { sequence = 0, ready = async () => undefined }: ForwardOptions = {},
  ): Promise<Float32Array> {
    const { vocab_size, hidden_size, num_hidden_layers, rms_norm_eps } = this.config;
    const [first = [], ...layers] = this.wakeOrder;
    await ready(first);
    const hidden = this.#embed(tokens);
    const angles = this.#parts.ropeTables.read(startPosition, tokens.length);
    const place = { sequence, startPosition };
    for (let layer = 0; layer < num_hidden_layers; layer++) {
      await ready(layers[layer] ?? []);
      addTo(hidden, this.#attention(layer, hidden, place, angles));
      addTo(hidden, this.#feedForward(layer, hidden));
    }
    await ready(layers.at(-1) ?? []);
    const last = hidden.subarray(-hidden_size);
    const normalised = rmsNorm(last, this.#weights.read(lastNormName, [hidden_size]), rms_norm_eps);
    // The embeddings are tied: one matrix turns tokens into vectors and the last vector into logits.
    return linear(normalised, this.#weights.read(embeddingName, [vocab_size, hidden_size]), hidden_size);
  }

  #embed(tokens: Uint8Array): Float32Array {
    const { vocab_size, hidden_size } = this.config;
    const hidden = new Float32Array(tokens.length * hidden_size);
    for (const [index, token] of tokens.entries()) {
      const row = this.#weights.readRow(embeddingName, [vocab_size, hidden_size], token);
      hidden.set(row, index * hidden_size);
    }
    return hidden;
  }

  #attention(layer: number, hidden: Float32Array, place: Place, angles: Angles): Float32Array {
    const { sequence, startPosition } = place;
    const { hidden_size, num_attention_heads, num_key_value_heads, head_dim } = this.config;
    const queryWidth = num_attention_heads * head_dim;
    const keyWidth = num_key_value_heads * head_dim;
    const input = this.#normalise(`model.layers.${layer}.input_layernorm.weight`, hidden);
    const project = (name: string, outputWidth: number): Float32Array =>
      this.#linear(`model.layers.${layer}.self_attn.${name}.weight`, input, outputWidth, hidden_size);
    const queries = project("q_proj", queryWidth);
    const keys = project("k_proj", keyWidth);
    rotate(queries, head_dim, angles.cosines, angles.sines);
    rotate(keys, head_dim, angles.cosines, angles.sines);
    this.#parts.cache.write(sequence, layer, "keys", startPosition, keys);
    this.#parts.cache.write(sequence, layer, "values", startPosition, project("v_proj", keyWidth));
    const mixed = this.#attend(layer, queries, place);
    return this.#linear(`model.layers.${layer}.self_attn.o_proj.weight`, mixed, hidden_size, queryWidth);
  }

  /** Causal attention over the cache. Several query heads share one key-value head. */
  #attend(layer: number, queries: Float32Array, { sequence, startPosition }: Place): Float32Array {
    const { num_attention_heads: queryHeads, num_key_value_heads: keyHeads, head_dim } = this.config;
    const tokens = queries.length / (queryHeads * head_dim);
    const keys = this.#parts.cache.read(sequence, layer, "keys", startPosition + tokens);
    const values = this.#parts.cache.read(sequence, layer, "values", startPosition + tokens);
    const layout = { heads: keyHeads, headWidth: head_dim };
    const output = new Float32Array(queries.length);
    for (let token = 0; token < tokens; token++) {
      const positions = startPosition + token + 1;
      for (let head = 0; head < queryHeads; head++) {
        const queryStart = (token * queryHeads + head) * head_dim;
        const keyHead = Math.floor((head * keyHeads) / queryHeads);
        attend(queries, queryStart, keys, values, keyHead, positions, layout, output);
      }
    }
    return output;
  }

  #feedForward(layer: number, hidden: Float32Array): Float32Array {
    const { hidden_size, intermediate_size } = this.config;
    const prefix = `model.layers.${layer}.mlp`;
    const input = this.#normalise(`model.layers.${layer}.post_attention_layernorm.weight`, hidden);
    const gate = this.#linear(`${prefix}.gate_proj.weight`, input, intermediate_size, hidden_size);
    swiGlu(gate, this.#linear(`${prefix}.up_proj.weight`, input, intermediate_size, hidden_size));
    return this.#linear(`${prefix}.down_proj.weight`, gate, hidden_size, intermediate_size);
  }

  #normalise(name: string, input: Float32Array): Float32Array {
    const { hidden_size, rms_norm_eps } = this.config;
    return rmsNorm(input, this.#weights.read(name, [hidden_size]), rms_norm_eps);
  }

  #linear(name: string, input: Float32Array, outputWidth: number, inputWidth: number): Float32Array {
    return linear(input, this.#weights.read(name, [outputWidth, inputWidth]), inputWidth);
  }
}

const embeddingName = "model.embed_tokens.weight";
const lastNormName = "model.norm.weight";

/** Waits until memory has its content, such as `WakeUp.ready`. */
export type Ready = (memory: readonly DeviceBuffer[]) => Promise<void>;

interface ForwardOptions {
  /** The sequence in the key-value cache; by default the first. */
  readonly sequence?: number;
  readonly ready?: Ready;
}

/** The parts of a loaded model. */
interface Parts {
  readonly config: LlamaConfig;
  readonly checkpointPath: string;
  readonly allocator: CaMemAllocator;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly cache: KvCache;
  readonly ropeTables: RopeTables;
  /** Frees all device memory. */
  readonly owned: DisposableStack;
}

/** The sequence of the current tokens, and the position of the first. */
interface Place {
  readonly sequence: number;
  readonly startPosition: number;
}

/** Cosines and sines of the current tokens. */
interface Angles {
  readonly cosines: Float32Array;
  readonly sines: Float32Array;
}
