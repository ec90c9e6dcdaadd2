import { CamemError, formatValue } from "../errors.ts";

/** Milliseconds, or a time such as `"30s"`, `"5m"` or `"1.5h"`. */
export type Duration = number | string;

export const durationText = 'milliseconds, or a time in ms, s, m, min, h or d such as "5m"';

const units = { ms: 1, s: 1_000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** A duration in milliseconds; undefined for anything else. */
export function parseDuration(value: unknown): number | undefined {
  const match = typeof value === "string" ? /^(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)$/.exec(value.trim()) : null;
  const ms = match ? Number(match[1]) * units[match[2] as keyof typeof units] : value;
  return typeof ms === "number" && Number.isFinite(ms) && ms >= 0 ? ms : undefined;
}

/** @throws CamemError `INVALID_CONFIG` naming the option */
export function millisecondsOf(value: unknown, option: string): number {
  const ms = parseDuration(value);
  if (ms !== undefined) return ms;
  throw new CamemError("INVALID_CONFIG", `${option} is ${formatValue(value)}; it must be ${durationText}`, {
    property: option,
  });
}
