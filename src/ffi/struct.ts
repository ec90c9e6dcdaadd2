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
      return Number(view.getBigUint64(offset, littleEndian));
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
  const entries = Object.entries(layout.fields).map(([name, field]) => [
    name,
    decodeField(field, bytes, view, start),
  ]);
  return Object.fromEntries(entries) as Decoded<L>;
}

/** Writes the numeric fields of a struct at byte `start` of `view`. */
export function encode<L extends Layout>(
  layout: L,
  view: DataView,
  start: number,
  values: { readonly [Name in keyof L["fields"]]: number },
): void {
  for (const [name, field] of Object.entries(layout.fields)) {
    const value = values[name as keyof L["fields"]];
    if (field.kind === "u64") view.setBigUint64(start + field.offset, BigInt(value), littleEndian);
    else view.setUint32(start + field.offset, value, littleEndian);
  }
}
