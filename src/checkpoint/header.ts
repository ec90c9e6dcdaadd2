import { inspect } from "node:util";
import Type, { type Static } from "typebox";
import Value from "typebox/value";
import type { TimeSlices } from "../async/time-slices.ts";
import { CamemError, messageOf } from "../errors.ts";
import { compiledCheck } from "../options/validate.ts";
import { endOfString, JsonFieldReader } from "./json-fields.ts";

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

/** The element type of a tensor, as spelt by safetensors. */
export type TensorDtype = keyof typeof elementBits;

/** The place of a tensor in a checkpoint. */
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
  /** The text pairs under `__metadata__`. */
  readonly metadata: ReadonlyMap<string, string>;
  /** All tensors in the order of the data, which they cover without overlap or hole. */
  readonly entries: readonly SafetensorsEntry[];
  /** Where the data starts in the file, in bytes. */
  readonly dataOffsetBytes: number;
  /** Length of the data, in bytes. */
  readonly dataSizeBytes: number;
}

/** Bytes of the header's length at the start of the file, an unsigned little-endian integer. */
export const lengthFieldBytes = 8;

/** The limit of the reference implementation: a longer header is an attack or damage. */
const maximumHeaderBytes = 100_000_000;

const ByteOffset = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });

const EntrySchema = Type.Object({
  dtype: Type.Enum(Object.keys(elementBits) as TensorDtype[]),
  shape: Type.Array(Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })),
  data_offsets: Type.Tuple([ByteOffset, ByteOffset]),
});

const truncatedHint = "The file is cut short or damaged: copy or download it again.";
const rewriteHint = "Write the file again with the safetensors library.";

/**
 * Parses and checks the header of a safetensors file, without touching a file or device. The event loop runs other tasks
 * meanwhile.
 *
 * @param bytes the start of the file: at least the length field and the whole header
 * @param fileSizeBytes the size of the whole file, in bytes
 * @param path the file's name in errors
 * @param slices divides the work
 * @throws CamemError `SAFETENSORS_INVALID` naming the file, the tensor and the offending value
 */
export async function parseSafetensorsHeader(
  bytes: Uint8Array,
  fileSizeBytes: number,
  path: string,
  slices: TimeSlices,
): Promise<SafetensorsHeader> {
  const dataOffsetBytes = lengthFieldBytes + parseHeaderLength(bytes, fileSizeBytes, path);
  if (bytes.length < dataOffsetBytes) {
    throw invalid(
      path,
      `the header ends at byte ${dataOffsetBytes}, but only ${bytes.length} bytes were read`,
      truncatedHint,
    );
  }
  const text = decodeHeader(bytes.subarray(lengthFieldBytes, dataOffsetBytes), path);
  const { metadata, entries } = await parseFields(text, path, slices);
  entries.sort((left, right) => left.beginBytes - right.beginBytes || left.endBytes - right.endBytes);
  const dataSizeBytes = fileSizeBytes - dataOffsetBytes;
  await checkCoverage(entries, dataSizeBytes, path, slices);
  return { metadata, entries, dataOffsetBytes, dataSizeBytes };
}

/** The length of the header without the field that holds it, in bytes. Throws like {@link parseSafetensorsHeader}. */
export function parseHeaderLength(bytes: Uint8Array, fileSizeBytes: number, path: string): number {
  if (bytes.length < lengthFieldBytes) {
    throw invalid(
      path,
      `the file has ${bytes.length} bytes, but a safetensors file starts with a header length of ${lengthFieldBytes} bytes`,
      truncatedHint,
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
      truncatedHint,
    );
  }
  return Number(length);
}

function decodeHeader(bytes: Uint8Array, path: string): string {
  // The format requires the brace as the first byte; JSON also allows white space before it.
  if (bytes[0] !== 0x7b) {
    throw invalid(path, "the header does not start with {", "This is not a safetensors file.");
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw notJson(path, error);
  }
}

function notJson(path: string, error: unknown): CamemError {
  return invalid(path, `the header is not JSON in UTF-8 (${bounded(messageOf(error))})`, rewriteHint, error);
}

async function parseFields(
  text: string,
  path: string,
  slices: TimeSlices,
): Promise<{ metadata: ReadonlyMap<string, string>; entries: SafetensorsEntry[] }> {
  let metadata: ReadonlyMap<string, string> = new Map();
  const entries: SafetensorsEntry[] = [];
  const names = new Set<string>();
  const reader = new JsonFieldReader(text);
  while (true) {
    const field = nextField(reader, path);
    if (field === undefined) return { metadata, entries };
    const { key, value, valueText } = field;
    const problem = names.has(key) ? twice(key) : findHiddenProblem(key, valueText);
    if (problem !== undefined) throw invalid(path, problem, rewriteHint);
    names.add(key);
    if (key === "__metadata__") metadata = parseMetadata(value, path);
    else entries.push(parseEntry(key, value, path));
    if (slices.isOver) await slices.next();
  }
}

function nextField(reader: JsonFieldReader, path: string): ReturnType<JsonFieldReader["next"]> {
  try {
    return reader.next();
  } catch (error) {
    throw notJson(path, error);
  }
}

const twice = (key: string) => `the header has the key ${formatHeaderValue(key)} twice`;

/** An object or array that is open during a scan. */
interface OpenValue {
  /** The keys so far; undefined in an array. */
  readonly keys: Set<string> | undefined;
  lastKey: string;
}

const sizeFields = ["shape", "data_offsets"];
const numberToken = /-?\d[\d.eE+-]*/y;

/**
 * Finds what the format forbids and `JSON.parse` hides in the value of a field: a key that an object has twice, so that two
 * readers could see different models in one file, and sizes such as `1.0`, `1e0` and `-0`. `text` must be JSON.
 */
function findHiddenProblem(name: string, text: string): string | undefined {
  const open: OpenValue[] = [];
  let keyComesNext = false;
  for (let index = 0; index < text.length; index++) {
    const character = text[index] ?? "";
    const inside = open.at(-1);
    if (character === '"') {
      const end = endOfString(text, index);
      if (keyComesNext && inside?.keys) {
        const key: string = JSON.parse(text.slice(index, end));
        if (inside.keys.has(key)) return twice(key);
        inside.keys.add(key);
        inside.lastKey = key;
      }
      keyComesNext = false;
      index = end - 1;
    } else if (character === "{" || character === "[") {
      keyComesNext = character === "{";
      open.push({ keys: keyComesNext ? new Set() : undefined, lastKey: "" });
    } else if (character === "}" || character === "]") {
      open.pop();
      keyComesNext = false;
    } else if (character === ",") {
      keyComesNext = inside?.keys !== undefined;
    } else if (character === "-" || (character >= "0" && character <= "9")) {
      numberToken.lastIndex = index;
      const token = numberToken.exec(text)?.[0] ?? character;
      const field = open[0]?.lastKey ?? "";
      if (/\D/.test(token) && sizeFields.includes(field))
        return `tensor ${formatHeaderValue(name)}: ${field} has ${bounded(token)}, which is not a whole number`;
      index += token.length - 1;
    }
  }
  return undefined;
}

function parseMetadata(value: unknown, path: string): ReadonlyMap<string, string> {
  if (!isTextMap(value)) {
    throw invalid(
      path,
      `__metadata__ is ${formatHeaderValue(value)}, but the format allows only a map from text to text`,
      rewriteHint,
    );
  }
  return new Map(Object.entries(value));
}

function isTextMap(value: unknown): value is Record<string, string> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  return Object.values(value).every((each) => typeof each === "string");
}

const isEntry = (value: unknown): value is Static<typeof EntrySchema> => compiledCheck(EntrySchema)(value);

function parseEntry(name: string, value: unknown, path: string): SafetensorsEntry {
  if (!isEntry(value)) throw invalidEntry(name, value, path);
  const [beginBytes, endBytes] = value.data_offsets;
  if (endBytes < beginBytes) {
    throw invalid(
      path,
      `tensor ${formatHeaderValue(name)}: data_offsets ${formatHeaderValue(value.data_offsets)} end before they begin`,
      rewriteHint,
    );
  }
  const expectedBytes = contentBytes(value.dtype, value.shape);
  if (endBytes - beginBytes !== expectedBytes) {
    const expected = expectedBytes === undefined ? "no whole, addressable number of" : String(expectedBytes);
    throw invalid(
      path,
      `tensor ${formatHeaderValue(name)}: ${value.dtype} with shape ${formatHeaderValue(value.shape)} takes ${expected} bytes, ` +
        `but data_offsets ${formatHeaderValue(value.data_offsets)} hold ${endBytes - beginBytes}`,
      rewriteHint,
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
    `tensor ${formatHeaderValue(name)}: ${field === "" ? "the entry" : field} is ${formatHeaderValue(offending)}, it ${reason}`,
    rewriteHint,
  );
}

/** Bytes of a tensor; undefined beyond 2^53, or where elements of 4 or 6 bits do not fill the last byte. */
function contentBytes(dtype: TensorDtype, shape: readonly number[]): number | undefined {
  let bits: number = elementBits[dtype];
  for (const length of shape) {
    bits *= length;
    if (bits > Number.MAX_SAFE_INTEGER) return undefined;
  }
  return bits % 8 === 0 ? bits / 8 : undefined;
}

/** The format forbids overlaps and holes: bytes outside every tensor hide data or mean a truncated file. */
async function checkCoverage(
  entries: readonly SafetensorsEntry[],
  dataSizeBytes: number,
  path: string,
  slices: TimeSlices,
): Promise<void> {
  let coveredBytes = 0;
  let before: SafetensorsEntry | undefined;
  for (const entry of entries) {
    const { beginBytes, endBytes } = entry;
    if (endBytes > dataSizeBytes || beginBytes !== coveredBytes)
      throw uncovered(entry, before, dataSizeBytes, path);
    coveredBytes = endBytes;
    before = entry;
    if (slices.isOver) await slices.next();
  }
  if (coveredBytes < dataSizeBytes) {
    throw invalid(
      path,
      `the tensors end at byte ${coveredBytes} of the data, but the data has ${dataSizeBytes} bytes`,
      rewriteHint,
    );
  }
}

/** The error for a tensor that ends beyond the data, or does not begin where the one `before` it ends. */
function uncovered(
  { name, beginBytes, endBytes }: SafetensorsEntry,
  before: SafetensorsEntry | undefined,
  dataSizeBytes: number,
  path: string,
): CamemError {
  const where = `tensor ${formatHeaderValue(name)}: data_offsets [${beginBytes}, ${endBytes}]`;
  if (endBytes > dataSizeBytes)
    return invalid(path, `${where} end beyond the data of ${dataSizeBytes} bytes`, truncatedHint);
  const coveredBytes = before?.endBytes ?? 0;
  const verb = beginBytes < coveredBytes ? "overlap" : "leave a hole after";
  const neighbour = before ? `tensor ${formatHeaderValue(before.name)}` : "the start of the data";
  return invalid(path, `${where} ${verb} ${neighbour}, which ends at ${coveredBytes}`, rewriteHint);
}

/** The error for a checkpoint that breaks the format or cannot be read: the problem and the remedy. */
export function invalid(path: string, problem: string, hint: string, cause?: unknown): CamemError {
  return new CamemError(
    "SAFETENSORS_INVALID",
    `${path}: ${problem}. ${hint}`,
    cause === undefined ? {} : { cause },
  );
}

/** A value of an untrusted header in an error text: shallow and short, since it may be huge or deeply nested. */
export function formatHeaderValue(value: unknown): string {
  return bounded(inspect(value, { depth: 1, maxArrayLength: 8, breakLength: Number.POSITIVE_INFINITY }));
}

const maximumShownCharacters = 120;

function bounded(text: string): string {
  return text.length <= maximumShownCharacters ? text : `${text.slice(0, maximumShownCharacters)}...`;
}
