import { CamemError, formatValue } from "../errors.ts";
import type { IdleRung } from "../server/engine/idle-sleep.ts";

/**
 * Parses a ladder such as `5m:1,1h:2`: the level of the sleep after a time without requests. {@link IdleSleep} checks the order.
 *
 * @throws CamemError `INVALID_CONFIG`
 */
export function parseLadder(text: string, label: string): IdleRung[] {
  return text.split(",").map((rung) => {
    const [, after, level] = /^\s*([^:]+):\s*([12])\s*$/.exec(rung) ?? [];
    if (after === undefined)
      throw new CamemError(
        "INVALID_CONFIG",
        `${label} is ${formatValue(text)}; it must be times and levels, such as 5m:1 or 5m:1,1h:2`,
        { property: label },
      );
    return { after: after.trim(), level: level === "1" ? 1 : 2 };
  });
}
