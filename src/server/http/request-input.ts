/** The input of a request: its query and its JSON body, within limits. */

import Type, { type TObject, type TSchema } from "typebox";
import { Value } from "typebox/value";
import { systemClock } from "../../async/clock.ts";
import { CamemError, formatValue } from "../../errors.ts";
import { mismatchText } from "../../options/validate.ts";
import { RequestError } from "./replies.ts";

export interface BodyLimits {
  readonly sizeBytes: number;
  readonly timeoutMs: number;
}

/** The URL of a request. A malformed Host header, which makes the URL invalid, leaves its path and query valid. */
export function urlOf({ url }: Request): URL {
  const placeholder = "http://host.invalid";
  return URL.parse(url, placeholder) ?? new URL(url.replace(/^https?:\/\/[^/?#]*/, placeholder));
}

const closing = { headers: { connection: "close" } };

async function readBody(
  body: ReadableStream<Uint8Array>,
  { sizeBytes, timeoutMs }: BodyLimits,
): Promise<string> {
  const reader = body.getReader();
  const late = Promise.withResolvers<never>();
  const cancelTimer = systemClock.after(timeoutMs, () =>
    late.reject(
      new RequestError(408, "TIMED_OUT", `the body did not arrive within ${timeoutMs} ms`, closing),
    ),
  );
  const decoder = new TextDecoder();
  let text = "";
  let readBytes = 0;
  try {
    while (true) {
      const { done, value } = await Promise.race([arrived(reader.read()), late.promise]);
      if (done) return text + decoder.decode();
      readBytes += value.length;
      if (readBytes > sizeBytes) throw tooLarge(sizeBytes);
      text += decoder.decode(value, { stream: true });
    }
  } finally {
    cancelTimer();
    // Nothing reads the rest of the body, so its failure does not matter.
    reader.cancel().catch(() => undefined);
  }
}

/** @throws CamemError `ABORTED` when the client leaves */
async function arrived<T>(piece: Promise<T>): Promise<T> {
  try {
    return await piece;
  } catch (cause) {
    throw new CamemError("ABORTED", "the connection ended before the body had arrived", { cause });
  }
}

const tooLarge = (sizeBytes: number) =>
  new RequestError(413, "BODY_TOO_LARGE", `the body is larger than ${sizeBytes} bytes`, closing);

/** A 400 that names a parameter by its place, as vLLM does. */
export const invalid = (message: string, param?: `${Place}.${string}`) =>
  new RequestError(400, "INVALID_ARGUMENT", message, { param });

/** Where a parameter was. */
type Place = "query" | "body";

const places = new WeakMap<Request, ReadonlyMap<string, Place>>();

/** The parameter's name with its place, such as `query.level`; undefined when {@link readInput} did not find it. */
export function locate(request: Request, name: string): string | undefined {
  const place = places.get(request)?.get(name);
  return place && `${place}.${name}`;
}

/** The reason for a value that the schema of its parameter refuses, as for a call in the process. */
function reasonOf(param: string): "UNKNOWN_LEVEL" | "INVALID_TAG" | "INVALID_ARGUMENT" {
  if (param === "level") return "UNKNOWN_LEVEL";
  return isTags(param) ? "INVALID_TAG" : "INVALID_ARGUMENT";
}

const isTags = (name: string) => name === "tags" || name === "offload_tags";

/** vLLM reads no body of these types, and neither do forms of web pages change an engine. */
const isForm = ({ headers }: Request) =>
  /^(application\/x-www-form-urlencoded|multipart\/form-data)\b/i.test(headers.get("content-type") ?? "");

async function readJson(request: Request, limits: BodyLimits): Promise<Record<string, unknown>> {
  const declaredBytes = Number(request.headers.get("content-length") ?? 0);
  if (declaredBytes > limits.sizeBytes) throw tooLarge(limits.sizeBytes);
  // Bun drops the body of a GET. An ignored body must not count as an empty one.
  if (request.body === null && (declaredBytes > 0 || request.headers.has("transfer-encoding")))
    throw invalid(`a ${request.method} request has no body here; use POST, or the query`);
  if (request.bodyUsed || request.body?.locked)
    throw new RequestError(
      500,
      "BODY_ALREADY_READ",
      "the body of this request was read before the handler received it; call the handler ahead of whatever reads bodies",
    );
  const text = request.body === null ? "" : (await readBody(request.body, limits)).trim();
  // curl -d sends JSON under the type of forms.
  if (text === "" || (isForm(request) && !text.startsWith("{"))) return {};
  const value = parseJson(text);
  if (typeof value === "object" && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>;
  throw invalid(`the body is ${formatValue(value)}; it must be a JSON object`);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw invalid("the body is not valid JSON");
  }
}

/** Converts text to the type of `property`. Other text stays as it is, for the schema to refuse. */
function fromText(text: string, property: TSchema): unknown {
  // Python clients send True, and vLLM accepts the other words too.
  if (Type.IsBoolean(property)) {
    if (/^(true|t|yes|y|on|1)$/i.test(text)) return true;
    return /^(false|f|no|n|off|0)$/i.test(text) ? false : text;
  }
  return !Type.IsString(property) && /^\d{1,15}$/.test(text) ? Number(text) : text;
}

function fromQuery(query: URLSearchParams, name: string, property: TSchema): unknown {
  const values = query.getAll(name);
  if (isTags(name)) return values.length > 0 ? values : undefined;
  if (values.length > 1)
    throw invalid(`${name} occurs ${values.length} times; it must occur once`, `query.${name}`);
  const [value] = values;
  return value === undefined ? undefined : fromText(value, property);
}

/** kvcached sends `{"level": "1"}`, so text in JSON may be a number too. */
function fromBody(body: Readonly<Record<string, unknown>>, name: string, property: TSchema): unknown {
  const value = body[name] ?? undefined;
  return typeof value === "string" ? fromText(value, property) : value;
}

/** A misspelt parameter must not put an engine to sleep at another level, nor wake more than was meant. */
function assertKnown(place: Place, given: Iterable<string>, known: readonly string[]): void {
  for (const name of given)
    if (!known.includes(name))
      throw invalid(
        `there is no parameter ${formatValue(name)}; this route has ${known.join(", ") || "none"}`,
        `${place}.${name}`,
      );
}

/**
 * The properties of `schema`, all of them optional, from the query, or from the body for those that the query lacks.
 *
 * @throws RequestError 400, 408 or 413
 */
export async function readInput<T extends TObject>(
  schema: T,
  request: Request,
  limits: BodyLimits,
): Promise<Partial<Type.Static<T>>> {
  const body = await readJson(request, limits);
  const query = urlOf(request).searchParams;
  const known = Object.keys(schema.properties);
  assertKnown("query", query.keys(), known);
  assertKnown("body", Object.keys(body), known);
  const input: Record<string, unknown> = {};
  const placeOf = (name: string): Place => (query.has(name) ? "query" : "body");
  for (const [name, property] of Object.entries(schema.properties)) {
    const value = fromQuery(query, name, property) ?? fromBody(body, name, property);
    // In vLLM and SGLang an empty list is the same as none.
    if (value === undefined || (isTags(name) && Array.isArray(value) && value.length === 0)) continue;
    if (!Value.Check(property, value)) {
      const param = `${placeOf(name)}.${name}`;
      throw new RequestError(400, reasonOf(name), mismatchText(name, value, property), { param });
    }
    input[name] = value;
  }
  places.set(request, new Map(Object.keys(input).map((name) => [name, placeOf(name)])));
  return input as Partial<Type.Static<T>>;
}
