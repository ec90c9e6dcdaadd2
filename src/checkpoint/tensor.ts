import { DeviceBuffer } from "../memory/buffer.ts";
import type { CheckpointEntry } from "./checkpoint-file.ts";
import type { TensorDtype } from "./header.ts";

/** A tensor of a checkpoint in device memory. */
export interface Tensor {
  /** The name in the checkpoint. */
  readonly name: string;
  /** The element type. */
  readonly dtype: TensorDtype;
  /** Lengths of the dimensions, outermost first; empty for a scalar. Elements are packed in row-major order. */
  readonly shape: readonly number[];
  /** Bytes of content; zero where a dimension is 0. */
  readonly sizeBytes: number;
  /** The device memory. A tensor without elements has a buffer of one byte, which is never written. */
  readonly buffer: DeviceBuffer;
}

export function isTensor(value: unknown): boolean {
  return (
    typeof value === "object" && value !== null && "buffer" in value && value.buffer instanceof DeviceBuffer
  );
}

/** A tensor of the checkpoint and the memory that it is loaded into. */
export interface Target {
  readonly entry: CheckpointEntry;
  readonly buffer: DeviceBuffer;
}
