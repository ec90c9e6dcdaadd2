/** A stand-in for an engine that computes a model layer by layer. */

import { dlopen } from "bun:ffi";
import type { CaMemAllocator, DeviceBuffer, OrderedMemory } from "camem";

/** The computation of one layer. */
interface Work {
  /** Bytes that the stand-in copies. */
  readonly workBytes: number;
}

export interface Layer extends Work {
  readonly memory: OrderedMemory;
}

/** Its computation is copies within the device, on a stream of its own. */
export class Engine implements Disposable {
  readonly #acl;
  readonly #scratch: DeviceBuffer;
  readonly #stream: number;

  /** @param scratchBytes device memory for the copies, each of at most half of it */
  constructor(allocator: CaMemAllocator, scratchBytes: number) {
    this.#acl = dlopen(allocator.backend.library, {
      aclrtSetDevice: { args: ["i32"], returns: "i32" },
      aclrtResetDevice: { args: ["i32"], returns: "i32" },
      aclrtCreateStream: { args: ["ptr"], returns: "i32" },
      aclrtDestroyStream: { args: ["u64"], returns: "i32" },
      aclrtSynchronizeStream: { args: ["u64"], returns: "i32" },
      aclrtMemcpyAsync: { args: ["u64", "u64", "u64", "u64", "i32", "u64"], returns: "i32" },
    }).symbols;
    const handle = new BigUint64Array(1);
    this.#check(this.#acl.aclrtSetDevice(allocator.device));
    this.#check(this.#acl.aclrtCreateStream(handle));
    this.#stream = Number(handle[0]);
    this.#scratch = allocator.malloc(scratchBytes, { tag: "sleep_persistent" });
  }

  /** Milliseconds until all layers are computed. Requires that they are awake. */
  compute(layers: readonly Work[]): number {
    const startedMs = performance.now();
    for (const layer of layers) this.#submit(layer);
    this.#check(this.#acl.aclrtSynchronizeStream(this.#stream));
    return performance.now() - startedMs;
  }

  /** Milliseconds of a wake-up in the order of the layers that computes each layer as soon as it is back. */
  async wakeAndCompute(allocator: CaMemAllocator, layers: readonly Layer[]): Promise<number> {
    const startedMs = performance.now();
    const wake = allocator.wakeUp({ order: layers.map(({ memory }) => memory) });
    for (const layer of layers) {
      await wake.streamWait(this.#stream, layer.memory);
      this.#submit(layer);
    }
    await wake;
    this.#check(this.#acl.aclrtSynchronizeStream(this.#stream));
    return performance.now() - startedMs;
  }

  #submit({ workBytes }: Work): void {
    const onDevice = 3;
    const half = this.#scratch.sizeBytes / 2;
    const { ptr } = this.#scratch;
    for (let left = workBytes; left > 0; left -= half) {
      const piece = Math.min(left, half);
      this.#check(this.#acl.aclrtMemcpyAsync(ptr, half, ptr + half, piece, onDevice, this.#stream));
    }
  }

  #check(code: number): void {
    if (code !== 0) throw new Error(`AscendCL returned ${code}`);
  }

  [Symbol.dispose](): void {
    this.#check(this.#acl.aclrtDestroyStream(this.#stream));
    this.#check(this.#acl.aclrtResetDevice(0));
    this.#scratch.free();
  }
}
