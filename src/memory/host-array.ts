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
 * @throws CamemError `INVALID_ARGUMENT` for anything else
 */
export function viewAsBytes(data: ArrayBufferView | ArrayBufferLike): Uint8Array {
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (data instanceof ArrayBuffer || data instanceof SharedArrayBuffer) return new Uint8Array(data);
  throw new CamemError(
    "INVALID_ARGUMENT",
    `the data is ${formatValue(data)}; it must be an ArrayBuffer or a view of one`,
  );
}
