import { CamemError, formatValue } from "../errors.ts";

/** @throws CamemError `OUT_OF_BOUNDS` for a range that is not within `whole` */
export function checkRange(
  offsetBytes: number,
  sizeBytes: number,
  whole: { readonly ptr: number; readonly sizeBytes: number },
): void {
  const fits =
    Number.isSafeInteger(offsetBytes) &&
    Number.isSafeInteger(sizeBytes) &&
    offsetBytes >= 0 &&
    sizeBytes >= 0 &&
    offsetBytes + sizeBytes <= whole.sizeBytes;
  if (fits) return;
  const range =
    offsetBytes > whole.sizeBytes
      ? `offset ${formatValue(offsetBytes)} is`
      : `${formatValue(sizeBytes)} bytes at offset ${formatValue(offsetBytes)} are`;
  throw new CamemError("OUT_OF_BOUNDS", `${range} not within the buffer's ${whole.sizeBytes} bytes`, {
    address: whole.ptr,
  });
}
