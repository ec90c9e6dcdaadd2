import type { Static, TObject, TSchema } from "typebox";
import { Compile } from "typebox/compile";
import { Value } from "typebox/value";
import { CamemError, type CamemErrorCode, formatValue } from "../errors.ts";
import { nearestName } from "./nearest-name.ts";

const compiledChecks = new WeakMap<TSchema, (value: unknown) => boolean>();

/** A check that is a hundred times as fast as an interpreted one, for values that are checked often. */
export function compiledCheck(schema: TSchema): (value: unknown) => boolean {
  const existing = compiledChecks.get(schema);
  if (existing) return existing;
  const validator = Compile(schema);
  const check = (value: unknown) => validator.Check(value);
  compiledChecks.set(schema, check);
  return check;
}

function descriptionOf(schema: TSchema): string {
  return (schema as { readonly description?: string }).description ?? "as documented";
}

/** The error text for a value that `schema` refuses: `level is 3; it must be 0, 1 or 2`. */
export function mismatchText(label: string, value: unknown, schema: TSchema): string {
  return `${label} is ${formatValue(value)}; it must be ${descriptionOf(schema)}`;
}

/** How `validate` reports a failure. */
interface ValidateReport {
  /** The code for each property; for others the code of the whole. */
  readonly codes?: Partial<Record<string, CamemErrorCode>>;
  /** The name of each property in the message, where it differs from its key. */
  readonly labels?: Partial<Record<string, string>>;
  /** The word for a property in the message; by default "option". */
  readonly noun?: string;
}

const quoted = (names: readonly string[]) => names.map((name) => `"${name}"`).join(", ");

function unknownText(owner: string, noun: string, unknown: string, known: readonly string[]): string {
  const nearest = nearestName(unknown, known);
  const list = `ts ${noun}s are ${quoted(known)}`;
  const advice = nearest === undefined ? `i${list}` : `did you mean "${nearest}"? I${list}`;
  return `${owner} has no ${noun} "${unknown}"; ${advice}`;
}

/**
 * Checks `value` against `schema`.
 *
 * @param owner the owner of the options in the message, such as "malloc"
 * @throws CamemError with `report.codes[property]`, else with `code`; its `property` is the first that does not fit, and its
 * message names that property, the value and what it must be
 */
export function validate<T extends TObject>(
  schema: T,
  value: unknown,
  owner: string,
  code: CamemErrorCode,
  { codes = {}, labels = {}, noun = "option" }: ValidateReport = {},
): asserts value is Static<T> {
  if (compiledCheck(schema)(value)) return;
  const required: readonly string[] = schema.required ?? [];
  const requirement = required.length === 0 ? "" : `; ${owner} requires ${quoted(required)}`;
  const subject = `the ${noun}s of ${owner}`;
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new CamemError(code, `${subject} must be an object, not ${formatValue(value)}${requirement}`);
  const known = Object.keys(schema.properties);
  const given = value as Record<string, unknown>;
  const unknown = Object.keys(given).find((name) => !known.includes(name));
  if (unknown !== undefined)
    throw new CamemError(code, unknownText(owner, noun, unknown, known), { property: unknown });
  for (const property of known) {
    const propertySchema = schema.properties[property] as TSchema;
    const isMissing = given[property] === undefined;
    if (isMissing ? !required.includes(property) : Value.Check(propertySchema, given[property])) continue;
    const label = labels[property] ?? property;
    const message = isMissing
      ? `${label} is missing in ${subject}; it must be ${descriptionOf(propertySchema)}`
      : mismatchText(label, given[property], propertySchema);
    throw new CamemError(codes[property] ?? code, message, { property });
  }
  throw new CamemError(code, `${subject} do not fit`);
}
