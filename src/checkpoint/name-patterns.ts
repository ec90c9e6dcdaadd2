import { CamemError, formatValue } from "../errors.ts";
import { nearestName } from "../options/nearest-name.ts";

interface Pattern {
  readonly text: string;
  /** The texts between its asterisks. */
  readonly parts: readonly string[];
  /** True once it was the first to match a name. */
  used: boolean;
}

/** A suggestion compares the pattern with this many names at most. */
const mostCandidates = 1000;

/** Patterns over tensor names, in which `*` stands for any text. The first pattern that matches a name counts. */
export class NamePatterns {
  readonly #patterns: readonly Pattern[];
  readonly #option: string;

  /** @param option the name of the option in errors */
  constructor(patterns: readonly string[], option: string) {
    this.#patterns = patterns.map((text) => ({ text, parts: text.split("*"), used: false }));
    this.#option = option;
  }

  /** The first pattern that matches `name`. */
  match(name: string): string | undefined {
    const pattern = this.#patterns.find(({ parts }) => matches(parts, name));
    if (pattern) pattern.used = true;
    return pattern?.text;
  }

  /** @throws CamemError `INVALID_ARGUMENT` for a pattern that was the first to match none of `names` */
  assertAllUsed(names: Iterable<string>, path: string): void {
    const unused = this.#patterns.find(({ used }) => !used);
    if (unused === undefined) return;
    const all = [...names];
    throw new CamemError("INVALID_ARGUMENT", unusedText(unused, all, this.#option, path), {
      property: this.#option,
    });
  }
}

function matches(parts: readonly string[], name: string): boolean {
  const [first = "", ...rest] = parts;
  if (!name.startsWith(first)) return false;
  const last = rest.pop();
  if (last === undefined) return name.length === first.length;
  let at = first.length;
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return name.length - last.length >= at && name.endsWith(last);
}

function unusedText(pattern: Pattern, names: readonly string[], option: string, path: string): string {
  const subject = `the pattern ${formatValue(pattern.text)} of ${option}`;
  if (names.some((name) => matches(pattern.parts, name)))
    return `${subject} matches only tensors that an earlier pattern matches; put it before that one`;
  const nearest = suggestion(pattern, names);
  const question = nearest === undefined ? "" : `did you mean ${formatValue(nearest)}? `;
  return `${subject} matches no tensor of ${path}; ${question}Correct it, or set allowUnmatched for a checkpoint of several files`;
}

/** The pattern with the most similar beginning that tensors have: the same number of dots before the first asterisk. */
function suggestion({ text, parts }: Pattern, names: readonly string[]): string | undefined {
  const [first = ""] = parts;
  const dots = first.split(".").length - 1;
  const isWhole = parts.length === 1;
  const beginningOf = (name: string) => name.split(".").slice(0, dots).join(".") + (dots > 0 ? "." : "");
  const beginnings = new Set<string>();
  for (const name of names) {
    const candidate = isWhole ? name : beginningOf(name);
    if (Math.abs(candidate.length - first.length) <= 2) beginnings.add(candidate);
    if (beginnings.size > mostCandidates) return undefined;
  }
  const nearest = nearestName(first, [...beginnings]);
  return nearest === undefined ? undefined : nearest + text.slice(first.length);
}
