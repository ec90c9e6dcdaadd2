const units = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 } as const;

export const sizeText = 'bytes, or a size in B, KiB, MiB, GiB or TiB such as "8GiB"';

/** Bytes, also more than a number holds exactly; undefined for a text that is no size. */
function bytesOf(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB)?$/.exec(text.trim());
  if (!match) return undefined;
  return Number(match[1]) * units[(match[2] ?? "B") as keyof typeof units];
}

/** `"8GiB"`, `"512 MiB"` or `"1048576"` in bytes; undefined for any other text. */
export function parseSize(text: string): number | undefined {
  const bytes = bytesOf(text);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** True for the text of a size beyond 2^53 - 1 bytes. */
export const isTooLarge = (text: string) => (bytesOf(text) ?? 0) > Number.MAX_SAFE_INTEGER;

/** Bytes for people: `1536` as `"1.5 KiB"`. */
export function formatSize(bytes: number): string {
  const unit = (["TiB", "GiB", "MiB", "KiB"] as const).find((name) => bytes >= units[name]) ?? "B";
  return `${Number((bytes / units[unit]).toFixed(2))} ${unit}`;
}
