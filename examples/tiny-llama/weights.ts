import type { DeviceBuffer, Tensor } from "camem";
import { widenBf16 } from "./math.ts";

/**
 * The model's bf16 weights in device memory. A forward pass copies them to the host one at a time.
 *
 * The host keeps no copy, although that would be faster: with one, the model would write the same text even if a sleep had lost the
 * weights, and the demo would prove nothing.
 */
export class Weights {
  readonly #tensors: ReadonlyMap<string, Tensor>;
  readonly #bf16: Uint16Array;
  readonly #float32: Float32Array;

  constructor(tensors: ReadonlyMap<string, Tensor>) {
    this.#tensors = tensors;
    const elements = Math.max(...Array.from(tensors.values(), ({ sizeBytes }) => sizeBytes / 2));
    this.#bf16 = new Uint16Array(elements);
    this.#float32 = new Float32Array(elements);
  }

  /** The memory of the tensors whose names begin with `prefix`. */
  buffersOf(prefix: string): readonly DeviceBuffer[] {
    return [...this.#tensors.values()]
      .filter(({ name }) => name.startsWith(prefix))
      .map(({ buffer }) => buffer);
  }

  /** The whole tensor in float32. The array is reused: it is valid until the next call of any method. */
  read(name: string, shape: readonly number[]): Float32Array {
    const tensor = this.#find(name, shape);
    return this.#readElements(tensor, 0, tensor.sizeBytes / 2);
  }

  /** One row of a matrix in float32. The array is reused: it is valid until the next call of any method. */
  readRow(name: string, shape: readonly [number, number], row: number): Float32Array {
    return this.#readElements(this.#find(name, shape), row * shape[1], shape[1]);
  }

  #readElements(tensor: Tensor, start: number, length: number): Float32Array {
    const bf16 = this.#bf16.subarray(0, length);
    const float32 = this.#float32.subarray(0, length);
    tensor.buffer.readInto(bf16, start * bf16.BYTES_PER_ELEMENT);
    widenBf16(bf16, float32);
    return float32;
  }

  #find(name: string, shape: readonly number[]): Tensor {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new Error(`The checkpoint has no tensor ${name}.`);
    if (tensor.dtype !== "BF16" || tensor.shape.join() !== shape.join()) {
      throw new Error(
        `Tensor ${name} is ${tensor.dtype} [${tensor.shape}], but config.json asks for BF16 [${shape}].`,
      );
    }
    return tensor;
  }
}
