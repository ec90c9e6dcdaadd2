/** Safetensors files for the tests: small valid ones, and every way in which a file can break the format. */

/** A file with the header and `dataSizeBytes` bytes of data; each byte is the low eight bits of its index. */
export function fileOf(header: string | Uint8Array, dataSizeBytes: number): Uint8Array {
  const headerBytes = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const file = new Uint8Array(8 + headerBytes.length + dataSizeBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes.length), true);
  file.set(headerBytes, 8);
  for (let index = 0; index < dataSizeBytes; index++) file[8 + headerBytes.length + index] = index;
  return file;
}

export function entry(dtype: string, shape: readonly number[], dataOffsets: readonly [number, number]) {
  return { dtype, shape, data_offsets: dataOffsets };
}

export const smallHeader = JSON.stringify({
  __metadata__: { format: "pt" },
  second: entry("F32", [3], [8, 20]),
  first: entry("BF16", [2, 2], [0, 8]),
  scalar: entry("U8", [], [20, 21]),
});
export const smallFile = fileOf(smallHeader, 21);

/** A file with one F32 tensor `weight` of two elements in eight bytes, with `fields` replaced. */
function weight(fields: Record<string, unknown>): Uint8Array {
  return fileOf(JSON.stringify({ weight: { ...entry("F32", [2], [0, 8]), ...fields } }), 8);
}

function twoTensors(first: [number, number], second: [number, number], dataSizeBytes: number): Uint8Array {
  const header = {
    first: entry("U8", [first[1] - first[0]], first),
    second: entry("U8", [second[1] - second[0]], second),
  };
  return fileOf(JSON.stringify(header), dataSizeBytes);
}

function withHeaderLength(length: bigint): Uint8Array {
  const file = smallFile.slice();
  new DataView(file.buffer).setBigUint64(0, length, true);
  return file;
}

/** Name of the case, the file, and the parts that the error message must contain. */
export const badFiles: [string, Uint8Array, string[]][] = [
  ["header length above the limit", withHeaderLength(100_000_001n), ["100000001", "100000000"]],
  ["header length of 2^64 - 1", withHeaderLength(2n ** 64n - 1n), ["18446744073709551615"]],
  [
    "header length beyond the file",
    withHeaderLength(BigInt(smallFile.length - 7)),
    [String(smallFile.length - 7)],
  ],
  ["header length of zero", withHeaderLength(0n), ["{"]],
  ["header length one too small", withHeaderLength(BigInt(smallHeader.length - 1)), ["JSON"]],
  ["header length one too large", withHeaderLength(BigInt(smallHeader.length + 1)), ["JSON"]],
  ["header that is not JSON", fileOf('{"weight":}', 0), ["JSON"]],
  ["header that is not UTF-8", fileOf(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d), 0), ["UTF-8"]],
  ["header with a byte order mark", fileOf("\ufeff{}", 0), ["{"]],
  ["header with leading white space", fileOf(" {}", 0), ["{"]],
  ["metadata with a number", fileOf('{"__metadata__":{"format":1}}', 0), ["__metadata__"]],
  [
    "metadata with a number under a key of two lines",
    fileOf('{"__metadata__":{"a\\nb":1}}', 0),
    ["__metadata__"],
  ],
  ["metadata that is an array", fileOf('{"__metadata__":["format"]}', 0), ["__metadata__"]],
  ["metadata that is null", fileOf('{"__metadata__":null}', 0), ["__metadata__"]],
  ...["2.0", "2e0", "20E-1", "-0"].map((length): [string, Uint8Array, string[]] => [
    `shape with ${length}`,
    fileOf(`{"weight":{"dtype":"F32","shape":[${length}],"data_offsets":[0,8]}}`, 8),
    ["weight", "shape", length],
  ]),
  ...["0.0", "-0", "0e1"].map((offset): [string, Uint8Array, string[]] => [
    `data_offsets with ${offset}`,
    fileOf(`{"weight":{"dtype":"F32","data_offsets":[${offset}, 8],"shape":[2]}}`, 8),
    ["weight", "data_offsets", offset],
  ]),
  ["header that is an array", fileOf("[]", 0), ["{"]],
  ["header that is null", fileOf("null", 0), ["{"]],
  ["header that is a number", fileOf("12", 0), ["{"]],
  ["header with text after the object", fileOf("{} x", 0), ["JSON"]],
  ["deep arrays", fileOf(`{"weight":${"[".repeat(200_000)}${"]".repeat(200_000)}}`, 0), ["weight"]],
  ["deep arrays that never close", fileOf(`{"weight":${"[".repeat(200_000)}`, 0), ["JSON"]],
  [
    "deep shape",
    weight({ shape: JSON.parse(`${"[".repeat(1000)}${"]".repeat(1000)}`) }),
    ["weight", "shape.0"],
  ],
  [
    "same name twice",
    fileOf(
      `{"weight":${JSON.stringify(entry("U8", [0], [0, 0]))},"w\\u0065ight":${JSON.stringify(entry("U8", [1], [0, 1]))}}`,
      1,
    ),
    ["weight", "twice"],
  ],
  [
    "same field twice",
    fileOf('{"weight":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1),
    ["dtype", "twice"],
  ],
  ["same metadata key twice", fileOf('{"__metadata__":{"a":"1","a":"2"}}', 0), ["a", "twice"]],
  ["metadata that is a text", fileOf('{"__metadata__":"pt"}', 0), ["__metadata__", "pt"]],
  ["metadata that is an array", fileOf('{"__metadata__":["pt"]}', 0), ["__metadata__"]],
  ["metadata with a number", fileOf('{"__metadata__":{"epochs":3}}', 0), ["__metadata__", "epochs: 3"]],
  ["metadata with a number under __proto__", fileOf('{"__metadata__":{"__proto__":3}}', 0), ["__metadata__"]],
  ["metadata with an object", fileOf('{"__metadata__":{"a":{}}}', 0), ["__metadata__"]],
  [
    "metadata with many numbers",
    fileOf(
      JSON.stringify({
        __metadata__: Object.fromEntries(Array.from({ length: 50_000 }, (_, index) => [index, index])),
      }),
      0,
    ),
    ["__metadata__"],
  ],
  ["a very long name", fileOf(JSON.stringify({ ["weight".repeat(10_000)]: 7 }), 0), ["weight"]],
  ["a very long word", fileOf(`{"weight":${"w".repeat(10_000)}}`, 0), ["JSON"]],
  ["a terminal escape in the name", fileOf(JSON.stringify({ "\u001b[31mweight": 7 }), 0), ["x1B[31mweight"]],
  ["entry that is null", fileOf('{"weight":null}', 0), ["weight", "null"]],
  ["entry that is a number", fileOf('{"weight":7}', 0), ["weight", "7"]],
  ["entry that is an array", fileOf('{"weight":[]}', 0), ["weight"]],
  ["entry without fields", fileOf('{"weight":{}}', 0), ["weight", "dtype"]],
  ["dtype missing", weight({ dtype: undefined }), ["weight", "dtype"]],
  ["shape missing", weight({ shape: undefined }), ["weight", "shape"]],
  ["data_offsets missing", weight({ data_offsets: undefined }), ["weight", "data_offsets"]],
  ["dtype unknown", weight({ dtype: "F12" }), ["weight", "F12", "BF16"]],
  ["dtype in lower case", weight({ dtype: "f32" }), ["weight", "f32"]],
  ["dtype like a property of an object", weight({ dtype: "toString" }), ["weight", "toString"]],
  ["dtype that is a number", weight({ dtype: 32 }), ["weight", "32"]],
  ["shape that is a number", weight({ shape: 2 }), ["weight", "shape"]],
  ["shape that is null", weight({ shape: null }), ["weight", "shape"]],
  ["negative dimension", weight({ shape: [-2] }), ["weight", "-2"]],
  ["two negative dimensions", weight({ shape: [-2, -1] }), ["weight", "-2"]],
  ["fractional dimension", weight({ shape: [2.5] }), ["weight", "2.5"]],
  ["dimension that is a text", weight({ shape: ["2"] }), ["weight", "'2'"]],
  ["dimension that is null", weight({ shape: [null] }), ["weight", "null"]],
  ["dimension of 2^53", weight({ shape: [2 ** 53] }), ["weight", "9007199254740992"]],
  [
    "dimension beyond the largest number",
    fileOf('{"weight":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}', 8),
    ["weight", "shape"],
  ],
  ["product beyond the safe integers", weight({ shape: [2 ** 32, 2 ** 32] }), ["weight", "4294967296"]],
  ["product that wraps to the right size in 64 bits", weight({ shape: [2 ** 32, 2 ** 31, 2] }), ["weight"]],
  ["offsets with one element", weight({ data_offsets: [0] }), ["weight", "data_offsets"]],
  ["offsets with three elements", weight({ data_offsets: [0, 8, 8] }), ["weight", "data_offsets"]],
  ["offsets that are an object", weight({ data_offsets: { 0: 0, 1: 8 } }), ["weight", "data_offsets"]],
  ["negative offset", weight({ data_offsets: [-8, 0] }), ["weight", "-8"]],
  ["fractional offset", weight({ data_offsets: [0.5, 8.5] }), ["weight", "0.5"]],
  ["offset of 2^53", weight({ data_offsets: [0, 2 ** 53] }), ["weight", "9007199254740992"]],
  ["offsets that end before they begin", weight({ data_offsets: [8, 0] }), ["weight", "[ 8, 0 ]"]],
  ["offsets beyond the data", weight({ shape: [3], data_offsets: [0, 12] }), ["weight", "12", "8 bytes"]],
  ["offsets wholly beyond the data", weight({ data_offsets: [8, 16] }), ["weight", "16"]],
  ["fewer bytes than the shape takes", weight({ shape: [3] }), ["weight", "12 bytes", "hold 8"]],
  ["more bytes than the shape takes", weight({ shape: [1] }), ["weight", "4 bytes", "hold 8"]],
  ["bytes for a shape without elements", weight({ shape: [0] }), ["weight", "0 bytes", "hold 8"]],
  ["dtype of another size", weight({ dtype: "F64" }), ["weight", "16 bytes", "hold 8"]],
  [
    "size that is not a whole number of bytes",
    fileOf(JSON.stringify({ weight: entry("F4", [3], [0, 2]) }), 2),
    ["weight", "whole"],
  ],
  ["two tensors over the same bytes", twoTensors([0, 4], [0, 4], 4), ["second", "overlap", "first"]],
  ["two tensors overlapping by one byte", twoTensors([0, 4], [3, 8], 8), ["second", "overlap", "first"]],
  ["a tensor inside another", twoTensors([0, 8], [2, 4], 8), ["second", "overlap", "first"]],
  ["an empty tensor inside another", twoTensors([0, 8], [4, 4], 8), ["second", "overlap", "first"]],
  ["a hole at the start", twoTensors([1, 4], [4, 8], 8), ["first", "hole"]],
  ["a hole between two tensors", twoTensors([0, 4], [5, 8], 8), ["second", "hole", "first"]],
  ["a hole at the end", twoTensors([0, 4], [4, 7], 8), ["7", "8 bytes"]],
  ["data without any tensor", fileOf("{}", 1), ["1 bytes"]],
];
