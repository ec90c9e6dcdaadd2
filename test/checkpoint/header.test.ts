import { describe, expect, test } from "bun:test";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { CamemError } from "camem";
import { TimeSlices } from "../../src/async/time-slices.ts";
import { parseSafetensorsHeader } from "../../src/checkpoint/header.ts";
import { rejectionMessage } from "../support/rejection.ts";
import { badFiles, entry, fileOf, smallFile, smallHeader } from "./safetensors-files.ts";

const modelPath = join(import.meta.dirname, "../../examples/tiny-llama/model/model.safetensors");

function parse(file: Uint8Array) {
  return parseSafetensorsHeader(file, file.length, "model.safetensors", new TimeSlices());
}

/** The error that parsing `file` throws; fails when parsing succeeds. */
async function failureOfParsing(file: Uint8Array): Promise<CamemError> {
  try {
    await parse(file);
  } catch (error) {
    if (error instanceof CamemError) return error;
    throw error;
  }
  throw new Error("parsing succeeded");
}

/** The entries of the header of `file`. */
async function entriesOf(file: Uint8Array) {
  return (await parse(file)).entries;
}

describe("parseSafetensorsHeader() of a valid header", () => {
  test("parseSafetensorsHeader() returns metadata, and tensors in the order of their data", async () => {
    const header = await parse(smallFile);
    expect(header.metadata).toEqual(new Map([["format", "pt"]]));
    expect(header.entries).toEqual([
      { name: "first", dtype: "BF16", shape: [2, 2], beginBytes: 0, endBytes: 8 },
      { name: "second", dtype: "F32", shape: [3], beginBytes: 8, endBytes: 20 },
      { name: "scalar", dtype: "U8", shape: [], beginBytes: 20, endBytes: 21 },
    ]);
    expect(header.dataOffsetBytes).toBe(8 + smallHeader.length);
    expect(header.dataSizeBytes).toBe(21);
  });

  test("parseSafetensorsHeader() reads a view that starts in the middle of its buffer", async () => {
    const shifted = new Uint8Array(smallFile.length + 3);
    shifted.set(smallFile, 3);
    expect(await parse(shifted.subarray(3))).toEqual(await parse(smallFile));
  });

  test("parseSafetensorsHeader() accepts a header padded with spaces", async () => {
    expect(await entriesOf(fileOf(`${smallHeader}       `, 21))).toHaveLength(3);
  });

  test("parseSafetensorsHeader() accepts a header without tensors", async () => {
    expect(await entriesOf(fileOf("{}", 0))).toEqual([]);
  });

  test("parseSafetensorsHeader() accepts tensors without elements", async () => {
    const header = { empty: entry("F32", [0, 7], [4, 4]), one: entry("F32", [1], [0, 4]) };
    expect((await entriesOf(fileOf(JSON.stringify(header), 4))).map(({ name }) => name)).toEqual([
      "one",
      "empty",
    ]);
  });

  test("parseSafetensorsHeader() accepts tensors named like properties of an object", async () => {
    const text =
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"constructor":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}';
    expect((await entriesOf(fileOf(text, 2))).map(({ name }) => name)).toEqual(["__proto__", "constructor"]);
  });

  test("parseSafetensorsHeader() accepts other numbers in fields that it does not know", async () => {
    const text = '{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"scale":[1.5,-2e3]}}';
    expect(await entriesOf(fileOf(text, 1))).toHaveLength(1);
  });

  test("parseSafetensorsHeader() accepts quotes, brackets and commas in names", async () => {
    const name = 'a"b\\",{["}]:';
    expect((await entriesOf(fileOf(JSON.stringify({ [name]: entry("U8", [1], [0, 1]) }), 1)))[0]?.name).toBe(
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
  ])("parseSafetensorsHeader() takes %s as %p bytes an element", async (dtype, elementBytes) => {
    const sizeBytes = 8 * elementBytes;
    expect(
      await entriesOf(fileOf(JSON.stringify({ x: entry(dtype, [8], [0, sizeBytes]) }), sizeBytes)),
    ).toHaveLength(1);
    expect(
      (await failureOfParsing(fileOf(JSON.stringify({ x: entry(dtype, [8], [0, 63]) }), 63))).message,
    ).toContain("63");
  });

  test("parseSafetensorsHeader() reads the model of the demo", async () => {
    const bytes = await readFile(modelPath);
    expect(await entriesOf(bytes)).toHaveLength(38);
  });
});

describe("a truncated file", () => {
  test.each(Array.from({ length: smallFile.length }, (_, sizeBytes) => sizeBytes))(
    "parseSafetensorsHeader() throws when the file is truncated at byte %p",
    async (sizeBytes) => {
      const error = await failureOfParsing(smallFile.slice(0, sizeBytes));
      expect(error.code).toBe("SAFETENSORS_INVALID");
      expect(error.message).toStartWith("model.safetensors: ");
    },
  );

  test("parseSafetensorsHeader() throws when the caller passes fewer bytes than the header has", async () => {
    const parsing = parseSafetensorsHeader(
      smallFile.subarray(0, 20),
      smallFile.length,
      "m",
      new TimeSlices(),
    );
    expect(await rejectionMessage(parsing)).toContain("20 bytes");
  });
});

test("parseSafetensorsHeader() throws when the file has one byte too many", async () => {
  const longer = new Uint8Array(smallFile.length + 1);
  longer.set(smallFile);
  expect((await failureOfParsing(longer)).message).toContain("the data has 22 bytes");
});

describe("a file that breaks the format", () => {
  test.each(badFiles)("parseSafetensorsHeader() throws for: %s", async (_name, file, named) => {
    const error = await failureOfParsing(file);
    expect(error.code).toBe("SAFETENSORS_INVALID");
    expect(error.message).toStartWith("model.safetensors: ");
    for (const part of named) expect(error.message).toContain(part);
    expect(error.message.length).toBeLessThan(1000);
  });
});
