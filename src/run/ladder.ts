import { CamemError, formatValue } from "../errors.ts";
import { parseDuration } from "../options/durations.ts";
import { type IdleRung, misplacedRung } from "../server/engine/idle-sleep.ts";

/**
 * Parses a ladder such as `5m:1,1h:2`: the level of the sleep after a time without requests.
 *
 * @throws CamemError `INVALID_CONFIG`
 */
export function parseLadder(text: string, label: string): IdleRung[] {
  const refuse = (must: string) =>
    new CamemError("INVALID_CONFIG", `${label} is ${formatValue(text)}; ${must}`, { property: label });
  const rungs = text.split(",").map((rung) => {
    const [, after, level] = /^\s*([^:]+):\s*([12])\s*$/.exec(rung) ?? [];
    if (after === undefined) throw refuse("it must be times and levels, such as 5m:1 or 5m:1,1h:2");
    const afterMs = parseDuration(after);
    if (afterMs === undefined)
      throw refuse(`the time ${formatValue(after.trim())} must be a number with ms, s, m, min, h or d`);
    return { after: after.trim(), afterMs, level: level === "1" ? 1 : 2 } as const;
  });
  if (misplacedRung(rungs) > 0) throw refuse("each level must be later and deeper than the one before it");
  return rungs.map(({ after, level }) => ({ after, level }));
}
