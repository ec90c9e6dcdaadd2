import { CamemError, formatValue } from "../errors.ts";

const byteCount = (bytes: number) => (bytes === 1 ? "1 byte" : `${formatValue(bytes)} bytes`);

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
      : `${byteCount(sizeBytes)} at offset ${formatValue(offsetBytes)} ${sizeBytes === 1 ? "is" : "are"}`;
  throw new CamemError("OUT_OF_BOUNDS", `${range} not within the buffer's ${byteCount(whole.sizeBytes)}`, {
    address: whole.ptr,
  });
}
