import { CamemError } from "../errors.ts";
import { show } from "./validate.ts";

/** Milliseconds, or a time such as `"30s"`, `"5m"` or `"1.5h"`. */
export type Duration = number | string;

const units = { ms: 1, s: 1_000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** @throws CamemError `INVALID_CONFIG` naming the option */
export function millisecondsOf(value: unknown, option: string): number {
  const match = typeof value === "string" ? /^(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)$/.exec(value.trim()) : null;
  const ms = match ? Number(match[1]) * units[match[2] as keyof typeof units] : value;
  if (typeof ms === "number" && Number.isFinite(ms) && ms >= 0) return ms;
  throw new CamemError(
    "INVALID_CONFIG",
    `${option} is ${show(value)}; it must be milliseconds or a time such as "30s", "5m" or "1h"`,
  );
}
