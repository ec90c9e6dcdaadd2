/** Rules for the memory of an engine. The library reads them (`shim/preload/rules.zig`); here they are checked before it runs. */

import { CamemError, formatValue } from "../errors.ts";
import { nearestName } from "../options/nearest-name.ts";

const mostRules = 64;
const mostConditions = 8;

const condition = new RegExp(
  `^(${[
    "size\\s*(>=|<=|>|<|=)\\s*\\d{1,15}\\s*(B|KiB|MiB|GiB|TiB)?",
    "written\\s*=\\s*(none|(host|device|memset)(\\+(host|device|memset))*)",
    "device\\s*=\\s*\\d{1,9}",
  ].join("|")})$`,
);

const actions = ["offload", "discard", "immutable", "keep"];

/**
 * Checks rules such as `size>=256MiB and written=memset: discard`.
 *
 * @throws CamemError `INVALID_CONFIG` for the first that does not parse
 */
export function checkRules(rules: readonly string[]): void {
  if (rules.length > mostRules)
    throw new CamemError("INVALID_CONFIG", `there are ${rules.length} rules; give at most ${mostRules}`);
  for (const rule of rules) {
    const fault = faultOf(rule);
    if (fault === undefined) continue;
    throw new CamemError(
      "INVALID_CONFIG",
      `the rule ${formatValue(rule)} does not parse: ${fault}; an example is "size>=256MiB and written=memset: discard"`,
      { property: "rules" },
    );
  }
}

function faultOf(rule: string): string | undefined {
  const [, left = "", action = ""] = /^([^\n]*):([^:\n]*)$/.exec(rule) ?? [];
  if (left === "") return "it must be conditions, a colon and an action";
  if (!actions.includes(action.trim()))
    return `the action ${formatValue(action.trim())} must be one of ${actions.join(", ")}`;
  const conditions = left.split(" and ").map((text) => text.trim());
  if (conditions.length > mostConditions) return `it may have at most ${mostConditions} conditions`;
  const wrong = conditions.find((text) => !condition.test(text));
  return wrong === undefined ? undefined : conditionFault(wrong);
}

/** What each kind of condition must look like. */
const forms: Readonly<Record<string, string>> = {
  size: "a comparison (>=, <=, >, <, =) with bytes or a size in B, KiB, MiB, GiB or TiB, such as size>=256MiB",
  written: "written=none, or host, device and memset joined by +, such as written=host+memset",
  device: "device= and a number, such as device=0",
};

function conditionFault(text: string): string {
  const [name = ""] = /^\w*/.exec(text) ?? [];
  if (/\bor\b/.test(text)) return `${formatValue(text)} has "or": write a rule for each of its sides`;
  const form = forms[name];
  const label = `the condition ${formatValue(text)}`;
  if (form !== undefined) return `${label} must be ${form}`;
  const nearest = nearestName(name, Object.keys(forms));
  const advice = nearest === undefined ? "" : `; did you mean ${nearest}?`;
  return `${label} must begin with size, written or device${advice}`;
}
