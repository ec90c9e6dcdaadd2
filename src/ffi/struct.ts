/** Reads and writes the C structs whose layouts `symbols.gen.ts` lists. */

interface Field {
  readonly kind: "text" | "i32" | "u32" | "u64";
  readonly offset: number;
  readonly length: number;
}

export interface Layout {
  readonly sizeBytes: number;
  readonly fields: Readonly<Record<string, Field>>;
}

/** A struct as a JavaScript object. Every `u64` of this ABI is below 2^53 or refused by the shim. */
export type Decoded<L extends Layout> = {
  readonly [Name in keyof L["fields"]]: L["fields"][Name]["kind"] extends "text" ? string : number;
};

const littleEndian = true;
const text = new TextDecoder();

function decodeField(field: Field, bytes: Uint8Array, view: DataView, start: number): string | number {
  const offset = start + field.offset;
  switch (field.kind) {
    case "i32":
      return view.getInt32(offset, littleEndian);
    case "u32":
      return view.getUint32(offset, littleEndian);
    case "u64":
      return readU64(view, offset);
    case "text": {
      const slot = bytes.subarray(offset, offset + field.length);
      const end = slot.indexOf(0);
      return text.decode(end < 0 ? slot : slot.subarray(0, end));
    }
  }
}

/** The struct that begins at byte `start` of `bytes`. */
export function decode<L extends Layout>(layout: L, bytes: Uint8Array, start = 0): Decoded<L> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values: Record<string, string | number> = {};
  for (const [name, field] of Object.entries(layout.fields))
    values[name] = decodeField(field, bytes, view, start);
  return values as Decoded<L>;
}

/** Reads a `u64` below 2^53; several times as fast as by a bigint. */
export function readU64(view: DataView, offset: number): number {
  return view.getUint32(offset, littleEndian) + view.getUint32(offset + 4, littleEndian) * 2 ** 32;
}

/** Writes a whole number below 2^53 as a `u64`. */
export function writeU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value, littleEndian);
  view.setUint32(offset + 4, value / 2 ** 32, littleEndian);
}
