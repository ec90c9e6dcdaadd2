/**
 * Schemas that several options share. A schema's `description` completes the sentence "it must be …" of the error for a value
 * that does not fit.
 */

import Type, {
  type Static,
  type TObject,
  type TOptional,
  type TProperties,
  type TReadonly,
  type TSchema,
  type TUnsafe,
} from "typebox";
import { durationText, parseDuration } from "./durations.ts";
import { sizeText } from "./sizes.ts";

/** Exactly these properties: `validate` refuses others as misspelt. */
export function closedObject<Properties extends TProperties>(properties: Properties): TObject<Properties> {
  return Type.Object(properties, { additionalProperties: false });
}

/** A read-only property that may be left out or undefined. */
export function optional<Schema extends TSchema>(
  schema: Schema,
): TReadonly<TOptional<TUnsafe<Static<Schema> | undefined>>> {
  return Type.Readonly(Type.Optional(schema)) as never;
}

/** A read-only property that must be given. */
export function required<Schema extends TSchema>(schema: Schema): TReadonly<TUnsafe<Static<Schema>>> {
  return Type.Readonly(schema) as never;
}

/** A value that JSON Schema cannot describe, such as an instance of a class. */
export function custom<T>(description: string, fits: (value: unknown) => boolean): TUnsafe<T> {
  return Type.Unsafe<T>(Type.Refine(Type.Unknown({ description }), fits));
}

/** A value that its consumer checks. */
export function unchecked<T>(): TUnsafe<T> {
  return Type.Unsafe<T>(Type.Unknown());
}

export function callback<F>(): TUnsafe<F> {
  return custom<F>("a function", (value) => typeof value === "function");
}

export const Level = Type.Union([Type.Literal(0), Type.Literal(1), Type.Literal(2)], {
  description: "0, 1 or 2",
});

/** A level that moves memory. */
export const LevelAboveZero = Type.Union([Type.Literal(1), Type.Literal(2)], { description: "1 or 2" });

/** What happens to requests in flight when a sleep begins. */
export const Mode = Type.Union([Type.Literal("abort"), Type.Literal("wait"), Type.Literal("keep")], {
  description: '"abort", "wait" or "keep"',
});

export const Tag = Type.String({ description: "a tag name" });

export const Tags = Type.Unsafe<readonly string[]>(
  Type.Array(Type.String(), { description: "an array of tag names" }),
);

export const Signal = custom<AbortSignal>("an AbortSignal", (value) => value instanceof AbortSignal);

export const Device = Type.Integer({ minimum: 0, description: "a device number, 0 or above" });

export const Devices = Type.Unsafe<readonly number[]>(
  Type.Array(Type.Integer({ minimum: 0 }), { description: "an array of device numbers" }),
);

export const Flag = Type.Boolean({ description: "true or false" });

export const Count = Type.Integer({ minimum: 0, description: "a whole number, 0 or above" });

export const PositiveInteger = Type.Integer({ minimum: 1, description: "a whole number above 0" });

export const Milliseconds = Type.Number({ minimum: 0, description: "milliseconds, 0 or above" });

export const WholeMilliseconds = Type.Integer({
  minimum: 0,
  description: "whole milliseconds, 0 or above",
});

export const WholeSeconds = Type.Integer({ minimum: 0, description: "whole seconds, 0 or above" });

/** Milliseconds, or a time such as `"30s"`, `"5m"` or `"1.5h"`. */
export const Duration = Type.Unsafe<number | string>(
  Type.Refine(Type.Unknown({ description: durationText }), (value) => parseDuration(value) !== undefined),
);

/** Bytes, or a size such as `"8GiB"`. */
export const Size = Type.Union([Type.Integer({ minimum: 0 }), Type.String()], { description: sizeText });
