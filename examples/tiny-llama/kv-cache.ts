import type { CaMemAllocator, DeviceBuffer } from "camem";
import type { LlamaConfig } from "./config.ts";

/** What the cache holds for each position. */
type CacheKind = "keys" | "values";

/**
 * The keys and values of the positions seen so far, in one buffer of device memory:
 *
 *     float32 [sequence][layer][keys, values][position][key-value head][element of the head]
 *
 * A sequence of this model needs 512 KiB. An engine uses all free memory for its cache; the demo writes one sequence, but allocates
 * enough for a visible sleep.
 */
export class KvCache {
  readonly sizeBytes: number;
  /** The number of sequences that fit. */
  readonly sequences: number;
  readonly buffer: DeviceBuffer;
  readonly #layers: number;
  readonly #positions: number;
  /** Elements of one position, of one kind, in one layer. */
  readonly #width: number;
  readonly #staging: Record<CacheKind, Float32Array>;

  constructor(allocator: CaMemAllocator, config: LlamaConfig, sizeBytes: number, tag: string) {
    const neededBytes = KvCache.neededBytes(config);
    if (sizeBytes < neededBytes) {
      throw new RangeError(
        `The key-value cache of ${sizeBytes} bytes is too small: the model needs ${neededBytes}.`,
      );
    }
    this.sizeBytes = sizeBytes;
    this.sequences = Math.floor(sizeBytes / neededBytes);
    this.#layers = config.num_hidden_layers;
    this.#positions = config.max_position_embeddings;
    this.#width = config.num_key_value_heads * config.head_dim;
    const elements = this.#positions * this.#width;
    this.#staging = { keys: new Float32Array(elements), values: new Float32Array(elements) };
    this.buffer = allocator.malloc(sizeBytes, { tag });
  }

  /** The bytes of one sequence. */
  static neededBytes(config: LlamaConfig): number {
    const width = config.num_key_value_heads * config.head_dim;
    return (
      config.num_hidden_layers * 2 * config.max_position_embeddings * width * Float32Array.BYTES_PER_ELEMENT
    );
  }

  write(sequence: number, layer: number, kind: CacheKind, startPosition: number, rows: Float32Array): void {
    this.buffer.write(rows, this.#offsetBytes(sequence, layer, kind, startPosition));
  }

  /** The first `positions` rows. The array is reused: it is valid until the next read of the same kind. */
  read(sequence: number, layer: number, kind: CacheKind, positions: number): Float32Array {
    const rows = this.#staging[kind].subarray(0, positions * this.#width);
    this.buffer.readInto(rows, this.#offsetBytes(sequence, layer, kind, 0));
    return rows;
  }

  free(): void {
    this.buffer.free();
  }

  #offsetBytes(sequence: number, layer: number, kind: CacheKind, position: number): number {
    const block = (sequence * this.#layers + layer) * 2 + (kind === "keys" ? 0 : 1);
    return (block * this.#positions + position) * this.#width * Float32Array.BYTES_PER_ELEMENT;
  }
}
