import { types } from "node:util";
import { CamemError, formatValue } from "../errors.ts";

/** @throws CamemError `OUT_OF_HOST_MEMORY` where JavaScript cannot create an array of that size */
export function createHostArray(sizeBytes: number): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(sizeBytes);
  } catch (cause) {
    throw new CamemError(
      "OUT_OF_HOST_MEMORY",
      `there is no room for an array of ${sizeBytes} bytes; read in pieces, with readInto or an offset and a size`,
      { sizeBytes, cause },
    );
  }
}

/**
 * The bytes that a view or buffer shows, without a copy.
 *
 * @throws CamemError `INVALID_ARGUMENT` for anything else, and for a buffer that was detached or has shrunk below its view
 */
export function viewAsBytes(data: ArrayBufferView | ArrayBufferLike): Uint8Array {
  try {
    if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    if (types.isAnyArrayBuffer(data)) return new Uint8Array(data);
  } catch (cause) {
    const problem = "the data was detached, such as by a transfer to a Worker, or has shrunk below its view";
    throw new CamemError("INVALID_ARGUMENT", `${problem}; pass a buffer that this thread owns`, { cause });
  }
  throw new CamemError(
    "INVALID_ARGUMENT",
    `the data is ${formatValue(data)}; it must be an ArrayBuffer or a view of one`,
  );
}
