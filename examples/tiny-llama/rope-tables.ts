import type { CaMemAllocator, DeviceBuffer } from "camem";
import type { LlamaConfig } from "./config.ts";

/**
 * The cosines and sines of the rotary positions, in device memory. No checkpoint contains these computed tables, so a reload cannot
 * restore them; a level 2 sleep therefore preserves the tag `buffers`.
 */
export class RopeTables {
  readonly #cosines: DeviceBuffer;
  readonly #sines: DeviceBuffer;
  /** Elements per position: one for each rotated pair. */
  readonly #width: number;

  constructor(allocator: CaMemAllocator, config: LlamaConfig, tag: string) {
    const { head_dim: headWidth, max_position_embeddings: positions, rope_theta: base } = config;
    this.#width = headWidth / 2;
    const angles = Float64Array.from({ length: positions * this.#width }, (_, index) => {
      const position = Math.floor(index / this.#width);
      const pair = index % this.#width;
      return position * base ** ((-2 * pair) / headWidth);
    });
    const cosines = Float32Array.from(angles, Math.cos);
    const sines = Float32Array.from(angles, Math.sin);
    [this.#cosines, this.#sines] = allocator.useMemoryPool(tag, (pool) => [
      pool.malloc(cosines.byteLength),
      pool.malloc(sines.byteLength),
    ]);
    this.#cosines.write(cosines);
    this.#sines.write(sines);
  }

  get buffers(): readonly DeviceBuffer[] {
    return [this.#cosines, this.#sines];
  }

  /** The rows of `positions` positions, from `startPosition` on. */
  read(startPosition: number, positions: number): { cosines: Float32Array; sines: Float32Array } {
    const cosines = new Float32Array(positions * this.#width);
    const sines = new Float32Array(positions * this.#width);
    const offsetBytes = startPosition * this.#width * Float32Array.BYTES_PER_ELEMENT;
    this.#cosines.readInto(cosines, offsetBytes);
    this.#sines.readInto(sines, offsetBytes);
    return { cosines, sines };
  }

  free(): void {
    this.#cosines.free();
    this.#sines.free();
  }
}
