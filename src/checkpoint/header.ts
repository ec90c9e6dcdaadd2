import { inspect } from "node:util";
import Type from "typebox";
import Value from "typebox/value";
import { CamemError, messageOf } from "../errors.ts";

/** Bits of one element, for every element type that the safetensors format knows. */
const elementBits = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F8_E4M3: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2: 8,
  F8_E5M2FNUZ: 8,
  F8_E8M0: 8,
  U16: 16,
  I16: 16,
  F16: 16,
  BF16: 16,
  U32: 32,
  I32: 32,
  F32: 32,
  U64: 64,
  I64: 64,
  F64: 64,
  C64: 64,
} as const;

/** The element type of a tensor, as safetensors spells it. */
export type TensorDtype = keyof typeof elementBits;

/** Where one tensor lies in a checkpoint. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: TensorDtype;
  readonly shape: readonly number[];
  /** First byte, counted from the start of the data (not of the file). */
  readonly beginBytes: number;
  /** One past the last byte, counted from the start of the data. */
  readonly endBytes: number;
}

/** The checked header of a checkpoint. */
export interface SafetensorsHeader {
  /** The free text pairs under `__metadata__`. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Every tensor, in the order of the data; together they cover the data without overlap or hole. */
  readonly entries: readonly SafetensorsEntry[];
  /** Where the data starts in the file, in bytes. */
  readonly dataOffsetBytes: number;
  /** Length of the data, in bytes. */
  readonly dataSizeBytes: number;
}

/** The file starts with the header's length, an unsigned little-endian integer of so many bytes. */
export const lengthFieldBytes = 8;

/** The reference implementation's own limit: a longer header is an attack or damage, not a model. */
const maximumHeaderBytes = 100_000_000;

const ByteOffset = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });

const EntrySchema = Type.Object({
  dtype: Type.Enum(Object.keys(elementBits) as TensorDtype[]),
  shape: Type.Array(Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })),
  data_offsets: Type.Tuple([ByteOffset, ByteOffset]),
});

const MetadataSchema = Type.Record(Type.String(), Type.String());

const truncatedMend = "The file is cut short or damaged: copy or download it again.";
const rewriteMend = "Write the file again with the safetensors library.";

/**
 * Checks the header of a safetensors file: no file and no device are touched.
 *
 * @param bytes The start of the file: at least the length field and the whole header.
 * @param fileSizeBytes Size of the whole file, in bytes.
 * @param path The file's name, for the errors.
 * @throws CamemError `SAFETENSORS_INVALID` naming the file, the tensor and the offending value.
 */
export function parseSafetensorsHeader(
  bytes: Uint8Array,
  fileSizeBytes: number,
  path: string,
): SafetensorsHeader {
  const dataOffsetBytes = lengthFieldBytes + parseHeaderLength(bytes, fileSizeBytes, path);
  if (bytes.length < dataOffsetBytes) {
    throw invalid(
      path,
      `the header ends at byte ${dataOffsetBytes}, but only ${bytes.length} bytes were read`,
      truncatedMend,
    );
  }
  const fields = parseHeaderFields(bytes.subarray(lengthFieldBytes, dataOffsetBytes), path);
  const metadata = parseMetadata(fields, path);
  fields.delete("__metadata__");
  const entries = [...fields].map(([name, value]) => parseEntry(name, value, path));
  entries.sort((left, right) => left.beginBytes - right.beginBytes || left.endBytes - right.endBytes);
  const dataSizeBytes = fileSizeBytes - dataOffsetBytes;
  checkCoverage(entries, dataSizeBytes, path);
  return { metadata, entries, dataOffsetBytes, dataSizeBytes };
}

/** The length of the header without the field that holds it, in bytes. Throws like {@link parseSafetensorsHeader}. */
export function parseHeaderLength(bytes: Uint8Array, fileSizeBytes: number, path: string): number {
  if (bytes.length < lengthFieldBytes) {
    throw invalid(
      path,
      `the file has ${bytes.length} bytes, but a safetensors file starts with a header length of ${lengthFieldBytes} bytes`,
      truncatedMend,
    );
  }
  const length = new DataView(bytes.buffer, bytes.byteOffset, lengthFieldBytes).getBigUint64(0, true);
  if (length > BigInt(maximumHeaderBytes)) {
    throw invalid(
      path,
      `the header length is ${length} bytes, above the format's limit of ${maximumHeaderBytes}`,
      "This is not a safetensors file, or it is damaged.",
    );
  }
  if (length > BigInt(fileSizeBytes - lengthFieldBytes)) {
    throw invalid(
      path,
      `the header length is ${length} bytes, but only ${fileSizeBytes - lengthFieldBytes} bytes follow it`,
      truncatedMend,
    );
  }
  return Number(length);
}

/** The header's fields as a map: a tensor may be called `__proto__`, which an object would not survive. */
function parseHeaderFields(bytes: Uint8Array, path: string): Map<string, unknown> {
  // The format wants the brace to be the first byte; JSON would also take white space or a byte order mark before it.
  if (bytes[0] !== 0x7b) {
    throw invalid(path, "the header does not start with {", "This is not a safetensors file.");
  }
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (error) {
    const reason = bounded(messageOf(error));
    throw invalid(path, `the header is not JSON in UTF-8 (${reason})`, rewriteMend, error);
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) {
    throw invalid(path, `the header has the key ${show(duplicate)} twice`, rewriteMend);
  }
  // Text that starts with a brace and is JSON is an object.
  return new Map(Object.entries(value as object));
}

/**
 * `JSON.parse` keeps the last of two equal keys and says nothing, so that two readers could see two different models in
 * one file. `text` is known to be JSON, which is why so little needs to be looked at.
 */
function findDuplicateKey(text: string): string | undefined {
  const keysOfOpenObjects: (Set<string> | undefined)[] = [];
  let keyComesNext = false;
  for (let index = 0; index < text.length; index++) {
    const character = text[index];
    if (character === '"') {
      const end = endOfString(text, index);
      if (keyComesNext) {
        const keys = keysOfOpenObjects.at(-1);
        const key: string = JSON.parse(text.slice(index, end));
        if (keys?.has(key)) return key;
        keys?.add(key);
      }
      keyComesNext = false;
      index = end - 1;
    } else if (character === "{" || character === "[") {
      keyComesNext = character === "{";
      keysOfOpenObjects.push(keyComesNext ? new Set() : undefined);
    } else if (character === "}" || character === "]") {
      keysOfOpenObjects.pop();
      keyComesNext = false;
    } else if (character === ",") {
      keyComesNext = keysOfOpenObjects.at(-1) !== undefined;
    }
  }
  return undefined;
}

/** The index after the closing quote of the string that opens at `start`. */
function endOfString(text: string, start: number): number {
  let index = start + 1;
  while (text[index] !== '"') index += text[index] === "\\" ? 2 : 1;
  return index + 1;
}

function parseMetadata(fields: ReadonlyMap<string, unknown>, path: string): ReadonlyMap<string, string> {
  if (!fields.has("__metadata__")) return new Map();
  const value = fields.get("__metadata__");
  if (!Value.Check(MetadataSchema, value)) {
    throw invalid(
      path,
      `__metadata__ is ${show(value)}, but the format allows only a map from text to text`,
      rewriteMend,
    );
  }
  return new Map(Object.entries(value));
}

function parseEntry(name: string, value: unknown, path: string): SafetensorsEntry {
  if (!Value.Check(EntrySchema, value)) throw invalidEntry(name, value, path);
  const [beginBytes, endBytes] = value.data_offsets;
  if (endBytes < beginBytes) {
    throw invalid(
      path,
      `tensor ${show(name)}: data_offsets ${show(value.data_offsets)} end before they begin`,
      rewriteMend,
    );
  }
  const expectedBytes = contentBytes(value.dtype, value.shape);
  if (endBytes - beginBytes !== expectedBytes) {
    const expected = expectedBytes === undefined ? "no whole, addressable number of" : String(expectedBytes);
    throw invalid(
      path,
      `tensor ${show(name)}: ${value.dtype} with shape ${show(value.shape)} takes ${expected} bytes, ` +
        `but data_offsets ${show(value.data_offsets)} hold ${endBytes - beginBytes}`,
      rewriteMend,
    );
  }
  return { name, dtype: value.dtype, shape: value.shape, beginBytes, endBytes };
}

function invalidEntry(name: string, value: unknown, path: string): CamemError {
  const [first] = Value.Errors(EntrySchema, value);
  const field = (first?.instancePath ?? "").slice(1).replaceAll("/", ".");
  const offending: unknown = first === undefined ? value : Value.Pointer.Get(value, first.instancePath);
  const reason =
    first?.keyword === "enum"
      ? `must be one of ${Object.keys(elementBits).join(", ")}`
      : (first?.message ?? "is not a tensor entry");
  return invalid(
    path,
    `tensor ${show(name)}: ${field === "" ? "the entry" : field} is ${show(offending)}, it ${reason}`,
    rewriteMend,
  );
}

/** `undefined` where the product is no safe integer, or where 4 or 6 bit elements do not fill their last byte. */
function contentBytes(dtype: TensorDtype, shape: readonly number[]): number | undefined {
  let bits: number = elementBits[dtype];
  for (const length of shape) {
    bits *= length;
    if (bits > Number.MAX_SAFE_INTEGER) return undefined;
  }
  return bits % 8 === 0 ? bits / 8 : undefined;
}

/** The format forbids overlaps and holes: bytes that no tensor owns could smuggle something, or mean a cut file. */
function checkCoverage(entries: readonly SafetensorsEntry[], dataSizeBytes: number, path: string): void {
  let coveredBytes = 0;
  let before = "the start of the data";
  for (const entry of entries) {
    const where = `tensor ${show(entry.name)}: data_offsets [${entry.beginBytes}, ${entry.endBytes}]`;
    if (entry.endBytes > dataSizeBytes) {
      throw invalid(path, `${where} end beyond the data of ${dataSizeBytes} bytes`, truncatedMend);
    }
    if (entry.beginBytes < coveredBytes) {
      throw invalid(path, `${where} overlap ${before}, which ends at ${coveredBytes}`, rewriteMend);
    }
    if (entry.beginBytes > coveredBytes) {
      throw invalid(
        path,
        `${where} leave a hole after ${before}, which ends at ${coveredBytes}`,
        rewriteMend,
      );
    }
    coveredBytes = entry.endBytes;
    before = `tensor ${show(entry.name)}`;
  }
  if (coveredBytes < dataSizeBytes) {
    throw invalid(
      path,
      `the tensors end at byte ${coveredBytes} of the data, but the data has ${dataSizeBytes} bytes`,
      rewriteMend,
    );
  }
}

/** What is wrong with the file `path`, and how to mend it. */
export function invalid(path: string, problem: string, mend: string, cause?: unknown): CamemError {
  return new CamemError(
    "SAFETENSORS_INVALID",
    `${path}: ${problem}. ${mend}`,
    cause === undefined ? {} : { cause },
  );
}

/** Shallow and bounded, since the value comes from an untrusted file and may be huge or deeply nested. */
export function show(value: unknown): string {
  return bounded(inspect(value, { depth: 1, maxArrayLength: 8, breakLength: Number.POSITIVE_INFINITY }));
}

const maximumShownCharacters = 120;

function bounded(text: string): string {
  return text.length <= maximumShownCharacters ? text : `${text.slice(0, maximumShownCharacters)}...`;
}
