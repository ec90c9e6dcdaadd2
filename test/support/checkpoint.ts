/** Safetensors checkpoints for tests. */

/** A checkpoint with these tensors of bytes, in this order. */
export function checkpointOf(tensors: Readonly<Record<string, Uint8Array>>): Uint8Array {
  let end = 0;
  const entries = Object.entries(tensors).map(([name, { length }]) => {
    end += length;
    return [name, { dtype: "U8", shape: [length], data_offsets: [end - length, end] }];
  });
  const text = JSON.stringify(Object.fromEntries(entries));
  const header = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, ...Object.values(tensors)]);
}
