import type Type from "typebox";
import type { TObject, TSchema } from "typebox";
import { Compile } from "typebox/compile";
import { Value } from "typebox/value";
import { CamemError, type CamemErrorCode } from "../errors.ts";

/** A value as an error message shows it: short, and never the content of a buffer. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);
  if (typeof value === "object" && value !== null) return Array.isArray(value) ? "an array" : "an object";
  return typeof value === "function" ? "a function" : String(value);
}

/** What was thrown, in words; anything can be. */
export function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : show(cause); // an object need not have words for itself
}

const checks = new WeakMap<TSchema, (value: unknown) => boolean>();

/** A compiled check, a hundred times as fast as an interpreted one: options are checked with every allocation. */
function checkOf(schema: TSchema): (value: unknown) => boolean {
  const known = checks.get(schema);
  if (known) return known;
  const validator = Compile(schema);
  const check = (value: unknown) => validator.Check(value);
  checks.set(schema, check);
  return check;
}

/**
 * Checks `value` against `schema` and names the first property that does not fit, its value, and what is expected, which is
 * the property's `description` in the schema.
 *
 * @throws CamemError with `codes[property]`, else with `code`
 */
export function validate<T extends TObject>(
  schema: T,
  value: unknown,
  what: string,
  code: CamemErrorCode,
  codes: Partial<Record<string, CamemErrorCode>> = {},
): asserts value is Type.Static<T> {
  if (checkOf(schema)(value)) return;
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new CamemError(code, `${what} must be an object, not ${show(value)}`);
  const known = Object.keys(schema.properties);
  const given = value as Record<string, unknown>;
  const unknown = Object.keys(given).find((name) => !known.includes(name));
  if (unknown !== undefined)
    throw new CamemError(
      code,
      `${what} has no "${unknown}"; there are ${known.map((name) => `"${name}"`).join(", ")}`,
    );
  const required: readonly string[] = schema.required ?? [];
  const wrong = known.find((name) => {
    const property = schema.properties[name];
    if (given[name] === undefined) return required.includes(name);
    return property !== undefined && !Value.Check(property, given[name]);
  });
  const property = wrong === undefined ? undefined : (schema.properties[wrong] as { description?: string });
  if (wrong === undefined) throw new CamemError(code, `${what} does not fit`);
  const found = given[wrong] === undefined ? `missing in ${what}` : show(given[wrong]);
  const expected = property?.description ?? "as documented";
  throw new CamemError(codes[wrong] ?? code, `${wrong} is ${found}; it must be ${expected}`);
}
