import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, CamemError, type LoadSafetensorsOptions, loadSafetensors } from "camem";
import { parseSafetensorsHeader } from "../../src/checkpoint/header.ts";

const modelPath = join(import.meta.dir, "../../examples/tiny-llama/model/model.safetensors");

/** A file with this header text and so many data bytes, each byte the low eight bits of its index. */
function fileOf(header: string | Uint8Array, dataSizeBytes: number): Uint8Array {
  const headerBytes = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const file = new Uint8Array(8 + headerBytes.length + dataSizeBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes.length), true);
  file.set(headerBytes, 8);
  for (let index = 0; index < dataSizeBytes; index++) file[8 + headerBytes.length + index] = index;
  return file;
}

function entry(dtype: string, shape: readonly number[], dataOffsets: readonly [number, number]) {
  return { dtype, shape, data_offsets: dataOffsets };
}

const smallHeader = JSON.stringify({
  __metadata__: { format: "pt" },
  second: entry("F32", [3], [8, 20]),
  first: entry("BF16", [2, 2], [0, 8]),
  scalar: entry("U8", [], [20, 21]),
});
const smallFile = fileOf(smallHeader, 21);

function parse(file: Uint8Array) {
  return parseSafetensorsHeader(file, file.length, "model.safetensors");
}

/** The error that parsing `file` throws; a file that is taken fails the test. */
function rejectionOf(file: Uint8Array): CamemError {
  try {
    parse(file);
  } catch (error) {
    if (error instanceof CamemError) return error;
    throw error;
  }
  throw new Error("the file was taken");
}

describe("a header that keeps to the format", () => {
  test("gives metadata and the tensors in the order of the data", () => {
    const header = parse(smallFile);
    expect(header.metadata).toEqual(new Map([["format", "pt"]]));
    expect(header.entries).toEqual([
      { name: "first", dtype: "BF16", shape: [2, 2], beginBytes: 0, endBytes: 8 },
      { name: "second", dtype: "F32", shape: [3], beginBytes: 8, endBytes: 20 },
      { name: "scalar", dtype: "U8", shape: [], beginBytes: 20, endBytes: 21 },
    ]);
    expect(header.dataOffsetBytes).toBe(8 + smallHeader.length);
    expect(header.dataSizeBytes).toBe(21);
  });

  test("is read from a view that starts in the middle of its buffer", () => {
    const shifted = new Uint8Array(smallFile.length + 3);
    shifted.set(smallFile, 3);
    expect(parse(shifted.subarray(3))).toEqual(parse(smallFile));
  });

  test("may be padded with spaces", () => {
    expect(parse(fileOf(`${smallHeader}       `, 21)).entries).toHaveLength(3);
  });

  test("may hold no tensor at all", () => {
    expect(parse(fileOf("{}", 0)).entries).toEqual([]);
  });

  test("may hold tensors without elements", () => {
    const header = { empty: entry("F32", [0, 7], [4, 4]), one: entry("F32", [1], [0, 4]) };
    expect(parse(fileOf(JSON.stringify(header), 4)).entries.map(({ name }) => name)).toEqual([
      "one",
      "empty",
    ]);
  });

  test("may call tensors like the properties of an object", () => {
    const text =
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"constructor":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}';
    expect(parse(fileOf(text, 2)).entries.map(({ name }) => name)).toEqual(["__proto__", "constructor"]);
  });

  test("may have quotes, brackets and commas inside names", () => {
    const name = 'a"b\\",{["}]:';
    expect(parse(fileOf(JSON.stringify({ [name]: entry("U8", [1], [0, 1]) }), 1)).entries[0]?.name).toBe(
      name,
    );
  });

  test.each([
    ["BOOL", 1],
    ["U8", 1],
    ["I8", 1],
    ["F8_E4M3", 1],
    ["F8_E5M2", 1],
    ["F8_E8M0", 1],
    ["U16", 2],
    ["I16", 2],
    ["F16", 2],
    ["BF16", 2],
    ["U32", 4],
    ["I32", 4],
    ["F32", 4],
    ["U64", 8],
    ["I64", 8],
    ["F64", 8],
    ["C64", 8],
    ["F4", 0.5],
    ["F6_E2M3", 0.75],
  ])("knows %s with %p bytes an element", (dtype, elementBytes) => {
    const sizeBytes = 8 * elementBytes;
    expect(
      parse(fileOf(JSON.stringify({ x: entry(dtype, [8], [0, sizeBytes]) }), sizeBytes)).entries,
    ).toHaveLength(1);
    expect(rejectionOf(fileOf(JSON.stringify({ x: entry(dtype, [8], [0, 63]) }), 63)).message).toContain(
      "63",
    );
  });

  test("is what the demo's model has", async () => {
    const bytes = await Bun.file(modelPath).bytes();
    expect(parse(bytes).entries).toHaveLength(38);
  });
});

describe("a file cut short", () => {
  test.each(Array.from({ length: smallFile.length }, (_, sizeBytes) => sizeBytes))(
    "at byte %p",
    (sizeBytes) => {
      const error = rejectionOf(smallFile.slice(0, sizeBytes));
      expect(error.code).toBe("SAFETENSORS_INVALID");
      expect(error.message).toStartWith("model.safetensors: ");
    },
  );

  test("while the caller passes fewer bytes than the header has", () => {
    expect(() => parseSafetensorsHeader(smallFile.subarray(0, 20), smallFile.length, "m")).toThrow(
      "20 bytes",
    );
  });
});

test("one byte too many at the end is not taken", () => {
  const longer = new Uint8Array(smallFile.length + 1);
  longer.set(smallFile);
  expect(rejectionOf(longer).message).toContain("the data has 22 bytes");
});

/** Eight data bytes, one F32 tensor `weight` of two elements over all of them, with some fields replaced. */
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

/** Name of the case, the file, and what the message has to name. */
const badFiles: [string, Uint8Array, string[]][] = [
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
  ["header that is no JSON", fileOf('{"weight":}', 0), ["JSON"]],
  ["header that is no UTF-8", fileOf(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d), 0), ["UTF-8"]],
  ["header with a byte order mark", fileOf("\ufeff{}", 0), ["{"]],
  ["header with leading white space", fileOf(" {}", 0), ["{"]],
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
    "dimension beyond every number",
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
    "half a byte left over",
    fileOf(JSON.stringify({ weight: entry("F4", [3], [0, 2]) }), 2),
    ["weight", "whole"],
  ],
  ["two tensors over the same bytes", twoTensors([0, 4], [0, 4], 4), ["second", "overlap", "first"]],
  ["two tensors overlapping by one byte", twoTensors([0, 4], [3, 8], 8), ["second", "overlap", "first"]],
  ["a tensor inside another", twoTensors([0, 8], [2, 4], 8), ["second", "overlap", "first"]],
  ["an empty tensor inside another", twoTensors([0, 8], [4, 4], 8), ["second", "overlap", "first"]],
  ["a hole at the start", twoTensors([1, 4], [4, 8], 8), ["first", "hole"]],
  ["a hole between", twoTensors([0, 4], [5, 8], 8), ["second", "hole", "first"]],
  ["a hole at the end", twoTensors([0, 4], [4, 7], 8), ["7", "8 bytes"]],
  ["data without any tensor", fileOf("{}", 1), ["1 bytes"]],
];

describe("a file that breaks the format is rejected", () => {
  test.each(badFiles)("%s", (_name, file, named) => {
    const error = rejectionOf(file);
    expect(error.code).toBe("SAFETENSORS_INVALID");
    expect(error.message).toStartWith("model.safetensors: ");
    for (const part of named) expect(error.message).toContain(part);
    expect(error.message.length).toBeLessThan(1000);
  });
});

describe("loadSafetensors", () => {
  const tag = "safetensors_test";
  let allocator: CaMemAllocator;
  let directory: string;
  let path: string;

  beforeAll(async () => {
    allocator = CaMemAllocator.getInstance();
    directory = await mkdtemp(join(tmpdir(), "camem-safetensors-"));
    path = join(directory, "small.safetensors");
    await Bun.write(path, smallFile);
  });

  afterAll(async () => {
    await allocator.close();
    await rm(directory, { recursive: true });
  });

  async function write(name: string, file: Uint8Array): Promise<string> {
    const filePath = join(directory, name);
    await Bun.write(filePath, file);
    return filePath;
  }

  async function rejectedLoad(load: Promise<unknown>): Promise<CamemError> {
    const error: unknown = await load.then(
      () => new Error("the load succeeded"),
      (reason: unknown) => reason,
    );
    if (error instanceof CamemError) return error;
    throw error;
  }

  test("puts every tensor's bytes into device memory under the tag", async () => {
    const tensors = await loadSafetensors(path, { allocator, tag });
    expect([...tensors.keys()]).toEqual(["first", "second", "scalar"]);
    const second = tensors.get("second");
    expect(second).toMatchObject({ name: "second", dtype: "F32", shape: [3], sizeBytes: 12 });
    expect(second?.buffer.tag).toBe(tag);
    expect(second?.buffer.read(0, 12)).toEqual(Uint8Array.from({ length: 12 }, (_, index) => index + 8));
    expect(tensors.get("scalar")?.buffer.read(0, 1)).toEqual(Uint8Array.of(20));
    expect(allocator.getCurrentUsage(tag)).toBeGreaterThanOrEqual(21);
    for (const { buffer } of tensors.values()) buffer.free();
  });

  const options: [string, () => readonly [unknown, unknown], string][] = [
    ["no options", () => [path, undefined], "must be an object"],
    ["an allocator as the options", () => [path, allocator], "allocator is missing"],
    ["no allocator", () => [path, { tag }], "it must be a CaMemAllocator"],
    ["a misspelt option", () => [path, { allocator, tags: tag }], 'has no "tags"'],
    ["a misspelt backing", () => [path, { allocator, backing: "disk" }], '"host" or "file"'],
    ["into as an object", () => [path, { allocator, into: {} }], "into is an object"],
    ["a signal that is none", () => [path, { allocator, signal: 5 }], "signal is 5"],
    ["a path that is a number", () => [5, { allocator }], "the path is 5"],
    ["an empty path", () => ["", { allocator }], 'the path is ""'],
    ["a URL that is no file", () => [new URL("https://host/a"), { allocator }], '"https://host/a"'],
  ];
  test.each(options)("refuses %s, and allocates nothing", async (_name, given, part) => {
    const [where, how] = given();
    const error = await rejectedLoad(loadSafetensors(where as string, how as LoadSafetensorsOptions));
    expect(error.code).toBe("INVALID_ARGUMENT");
    expect(error.message).toContain(part);
    expect(allocator.usage()).toEqual({});
  });

  test("takes a file URL", async () => {
    const tensors = await loadSafetensors(Bun.pathToFileURL(path), { allocator, tag });
    expect(tensors.size).toBe(3);
    for (const { buffer } of tensors.values()) buffer.free();
  });

  test("gives a tensor without elements a buffer and no content", async () => {
    const header = JSON.stringify({ empty: entry("F32", [0], [0, 0]) });
    const tensors = await loadSafetensors(await write("empty.safetensors", fileOf(header, 0)), {
      allocator,
      tag,
    });
    expect(tensors.get("empty")).toMatchObject({ shape: [0], sizeBytes: 0 });
    expect(tensors.get("empty")?.buffer.state).toBe("mapped");
    tensors.get("empty")?.buffer.free();
  });

  test("copies data that spans several chunks, and lets the event loop run between them", async () => {
    const oddBytes = 20 * 1024 * 1024 + 1;
    const header = JSON.stringify({
      odd: entry("U8", [oddBytes], [0, oddBytes]),
      rest: entry("U8", [oddBytes], [oddBytes, 2 * oddBytes]),
    });
    const file = fileOf(header, 2 * oddBytes);
    const largePath = await write("large.safetensors", file);
    let turns = 0;
    // Not a timer, which is not due where a chunk takes less than a millisecond.
    const count = () => {
      turns++;
      turn = setImmediate(count);
    };
    let turn = setImmediate(count);
    const tensors = await loadSafetensors(largePath, { allocator, tag });
    clearImmediate(turn);
    expect(turns).toBeGreaterThan(0);
    const dataOffsetBytes = 8 + header.length;
    const odd = tensors.get("odd")?.buffer.read(0, oddBytes);
    const rest = tensors.get("rest")?.buffer.read(0, oddBytes);
    expect(Bun.hash(odd ?? "")).toBe(Bun.hash(file.subarray(dataOffsetBytes, dataOffsetBytes + oddBytes)));
    expect(Bun.hash(rest ?? "")).toBe(Bun.hash(file.subarray(dataOffsetBytes + oddBytes)));
    for (const { buffer } of tensors.values()) buffer.free();
  });

  test.each(badFiles)("allocates nothing for a file with: %s", async (_name, file) => {
    const before = allocator.getCurrentUsage();
    const error = await rejectedLoad(
      loadSafetensors(await write("bad.safetensors", file), { allocator, tag }),
    );
    expect(error.code).toBe("SAFETENSORS_INVALID");
    expect(error.message).toContain("bad.safetensors");
    expect(allocator.getCurrentUsage()).toBe(before);
  });

  test("allocates nothing for a file cut short anywhere", async () => {
    const before = allocator.getCurrentUsage();
    const cutPath = await write("cut.safetensors", smallFile);
    for (let sizeBytes = smallFile.length - 1; sizeBytes >= 0; sizeBytes--) {
      await truncate(cutPath, sizeBytes);
      const error = await rejectedLoad(loadSafetensors(cutPath, { allocator, tag }));
      expect(error.code).toBe("SAFETENSORS_INVALID");
    }
    expect(allocator.getCurrentUsage()).toBe(before);
  });

  test.each([
    ["a missing file", "missing.safetensors", "ENOENT"],
    ["a directory", ".", "regular file"],
  ])("names %s", async (_name, relativePath, named) => {
    const error = await rejectedLoad(loadSafetensors(join(directory, relativePath), { allocator, tag }));
    expect(error.code).toBe("SAFETENSORS_INVALID");
    expect(error.message).toContain(named);
  });

  test("frees what it allocated when device memory runs out in the middle", async () => {
    const before = allocator.getCurrentUsage();
    // A sparse file: its size is what the header says, but its data takes no disk.
    const totalBytes = allocator.memGetInfo().totalBytes;
    const header = JSON.stringify({
      small: entry("U8", [16], [0, 16]),
      large: entry("U8", [totalBytes], [16, 16 + totalBytes]),
    });
    const hugePath = await write("huge.safetensors", fileOf(header, 16));
    await truncate(hugePath, 8 + header.length + 16 + totalBytes);
    const error = await rejectedLoad(loadSafetensors(hugePath, { allocator, tag }));
    expect(error.code).toBe("OUT_OF_DEVICE_MEMORY");
    expect(allocator.getCurrentUsage()).toBe(before);
  });

  test("allocates nothing under a signal that has fired", async () => {
    const before = allocator.getCurrentUsage();
    const error = await rejectedLoad(loadSafetensors(path, { allocator, tag, signal: AbortSignal.abort() }));
    expect(error.code).toBe("ABORTED");
    expect(allocator.getCurrentUsage()).toBe(before);
  });

  test("frees what it allocated when the signal fires in the middle", async () => {
    const before = allocator.getCurrentUsage();
    const sizeBytes = 64 * 1024 * 1024;
    const header = JSON.stringify({ x: entry("U8", [sizeBytes], [0, sizeBytes]) });
    const longPath = await write("long.safetensors", fileOf(header, 0));
    await truncate(longPath, 8 + header.length + sizeBytes);
    const controller = new AbortController();
    const load = loadSafetensors(longPath, { allocator, tag, signal: controller.signal });
    const timer = setInterval(() => {
      if (allocator.getCurrentUsage() > before) controller.abort();
    }, 0);
    const error = await rejectedLoad(load);
    clearInterval(timer);
    expect(error.code).toBe("ABORTED");
    expect(allocator.getCurrentUsage()).toBe(before);
  });

  describe("into the tensors of an earlier load", () => {
    test("writes in place and gives back the same map", async () => {
      const tensors = await loadSafetensors(path, { allocator, tag });
      const usage = allocator.getCurrentUsage();
      for (const { buffer, sizeBytes } of tensors.values()) buffer.fill(0xee, 0, sizeBytes);
      const again = await loadSafetensors(path, { allocator, tag, into: tensors });
      expect(again).toBe(tensors);
      expect(tensors.get("first")?.buffer.read(0, 8)).toEqual(Uint8Array.of(0, 1, 2, 3, 4, 5, 6, 7));
      expect(allocator.getCurrentUsage()).toBe(usage);
      for (const { buffer } of tensors.values()) buffer.free();
    });

    const others: [string, Record<string, unknown>, number, string][] = [
      [
        "a tensor missing",
        { first: entry("BF16", [2, 2], [0, 8]), second: entry("F32", [3], [8, 20]) },
        20,
        "scalar",
      ],
      ["a tensor too many", { ...JSON.parse(smallHeader), more: entry("U8", [1], [21, 22]) }, 22, "more"],
      ["another dtype", { ...JSON.parse(smallHeader), first: entry("F16", [2, 2], [0, 8]) }, 21, "first"],
      ["another shape", { ...JSON.parse(smallHeader), first: entry("BF16", [4], [0, 8]) }, 21, "first"],
      ["another rank", { ...JSON.parse(smallHeader), scalar: entry("U8", [1], [20, 21]) }, 21, "scalar"],
    ];
    test.each(others)("writes nothing from a file with %s", async (_name, header, dataSizeBytes, named) => {
      const tensors = await loadSafetensors(path, { allocator, tag });
      for (const { buffer, sizeBytes } of tensors.values()) buffer.fill(0xee, 0, sizeBytes);
      const otherPath = await write("other.safetensors", fileOf(JSON.stringify(header), dataSizeBytes));
      const error = await rejectedLoad(loadSafetensors(otherPath, { allocator, into: tensors }));
      expect(error.code).toBe("SAFETENSORS_INVALID");
      expect(error.message).toContain(named);
      for (const { buffer, sizeBytes } of tensors.values()) {
        expect(buffer.read(0, sizeBytes)).toEqual(new Uint8Array(sizeBytes).fill(0xee));
        buffer.free();
      }
    });

    test("refuses tensors that were freed", async () => {
      const tensors = await loadSafetensors(path, { allocator, tag });
      for (const { buffer } of tensors.values()) buffer.free();
      const error = await rejectedLoad(loadSafetensors(path, { allocator, into: tensors }));
      expect(error.code).toBe("BUFFER_FREED");
    });

    test("refuses tensors that are asleep, and takes them after a wake-up", async () => {
      const tensors = await loadSafetensors(path, { allocator, tag });
      await allocator.sleep({ level: 2 });
      const error = await rejectedLoad(loadSafetensors(path, { allocator, into: tensors }));
      expect(error.code).toBe("BUFFER_ASLEEP");
      expect(error.message).toContain(tag);
      await allocator.wakeUp();
      await loadSafetensors(path, { allocator, into: tensors });
      expect(tensors.get("scalar")?.buffer.read(0, 1)).toEqual(Uint8Array.of(20));
      for (const { buffer } of tensors.values()) buffer.free();
    });
  });
});
