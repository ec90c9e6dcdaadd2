/** A YAML document whose values know their line and column. */

import type { TSchema } from "typebox";
import { Value } from "typebox/value";
import { type Document, isMap, isScalar, LineCounter, type Node, parseDocument } from "yaml";
import { CamemError, formatValue, messageOf } from "../errors.ts";
import { nearestName } from "../options/nearest-name.ts";

type Path = readonly (string | number)[];

/** A fault of a file at one place. */
export interface Fault {
  readonly path: Path;
  readonly message: string;
}

/** A parsed file. */
export class PositionedYaml {
  readonly #name: string;
  readonly #document: Document.Parsed;
  readonly #lines: LineCounter;

  /** @throws CamemError `INVALID_CONFIG` with the place of each fault of the syntax */
  constructor(text: string, name: string) {
    this.#name = name;
    this.#lines = new LineCounter();
    this.#document = parseDocument(text, { lineCounter: this.#lines, prettyErrors: false, uniqueKeys: true });
    const { errors } = this.#document;
    if (errors.length === 0) return;
    throw invalid(errors.map(({ message, pos }) => `${this.#at(pos[0])}: ${message}`));
  }

  /**
   * The content of the file, if it fits the schema.
   *
   * @throws CamemError `INVALID_CONFIG` with the place of each fault
   */
  read<T>(schema: TSchema): T {
    const value = this.#value();
    if (Value.Check(schema, value)) return value as T;
    this.refuse(faultsOf(schema, value, []));
    throw invalid([`${this.#name}: it does not fit the schema`]);
  }

  /** @throws CamemError `INVALID_CONFIG` for an alias that leads nowhere, or too many of them */
  #value(): unknown {
    try {
      return this.#document.toJS();
    } catch (error) {
      throw invalid([`${this.#name}: ${messageOf(error)}`]);
    }
  }

  /** @throws CamemError `INVALID_CONFIG` with the place of each fault, if there is one */
  refuse(faults: readonly Fault[]): void {
    if (faults.length === 0) return;
    const placed = faults.map(({ path, message }) => ({ offset: this.#offsetOf(path), message }));
    placed.sort((one, other) => one.offset - other.offset);
    throw invalid(placed.map(({ offset, message }) => `${this.#at(offset)}: ${message}`));
  }

  #at(offset: number): string {
    const { line, col } = this.#lines.linePos(offset);
    return `${this.#name}:${line}:${col}`;
  }

  /** The offset of a key; where it is missing, that of the map that lacks it. */
  #offsetOf(path: Path): number {
    let node: Node | null = this.#document.contents;
    let offset = node?.range?.[0] ?? 0;
    for (const step of path) {
      if (isMap(node)) {
        const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === String(step));
        if (pair === undefined) break;
        offset = (pair.key as Node).range?.[0] ?? offset;
        node = pair.value as Node | null;
      } else {
        const next = this.#document.getIn(path.slice(0, path.indexOf(step) + 1), true) as Node | undefined;
        if (next === undefined) break;
        offset = next.range?.[0] ?? offset;
        node = next;
      }
    }
    return offset;
  }
}

function invalid(lines: readonly string[]): CamemError {
  return new CamemError("INVALID_CONFIG", lines.join("\n"));
}

/** The parts of a schema that objects, maps and lists have. */
interface Parts extends TSchema {
  readonly description?: string;
  readonly properties?: Readonly<Record<string, TSchema>>;
  readonly required?: readonly string[];
  readonly patternProperties?: Readonly<Record<string, TSchema>>;
  readonly items?: TSchema;
  /** Alternatives, each with the names that it requires. */
  readonly oneOf?: readonly { readonly required?: readonly string[] }[];
}

/** The innermost values that do not fit, each with what it must be. */
function faultsOf(schema: TSchema, value: unknown, path: Path): Fault[] {
  if (Value.Check(schema, value)) return [];
  const {
    description = "as documented",
    properties,
    required = [],
    patternProperties,
    items,
  } = schema as Parts;
  const label = path.length === 0 ? "the file" : path.join(".");
  if (properties !== undefined && isRecord(value)) {
    const known = Object.keys(properties);
    const unknown = Object.keys(value).filter((name) => !known.includes(name));
    const missing = required.filter((name) => !Object.hasOwn(value, name));
    const faults = [
      ...alternativeFaults(schema, value, path, label),
      ...unknown.map((name) => ({ path: [...path, name], message: unknownText(label, name, known) })),
      ...missing.map((name) => ({ path, message: `${label} lacks ${name}` })),
      ...Object.entries(properties).flatMap(([name, property]) =>
        Object.hasOwn(value, name) ? faultsOf(property, value[name], [...path, name]) : [],
      ),
    ];
    if (faults.length > 0) return faults;
  }
  const [each] = Object.values(patternProperties ?? {});
  if (each !== undefined && isRecord(value)) {
    const faults = Object.entries(value).flatMap(([name, part]) => faultsOf(each, part, [...path, name]));
    if (faults.length > 0) return faults;
  }
  if (items !== undefined && Array.isArray(value)) {
    const parts: readonly unknown[] = value;
    const faults = parts.flatMap((part, index) => faultsOf(items, part, [...path, index]));
    if (faults.length > 0) return faults;
  }
  return [{ path, message: `${label} is ${formatValue(value)}; it must be ${description}` }];
}

/** A value that must have exactly one of several names and has more or none of them. */
function alternativeFaults({ oneOf = [] }: Parts, value: object, path: Path, label: string): Fault[] {
  const names = oneOf.flatMap(({ required = [] }) => required);
  const given = names.filter((name) => Object.hasOwn(value, name));
  if (names.length === 0 || given.length === 1) return [];
  const has = given.length === 0 ? "none" : given.join(" and ");
  return [{ path, message: `${label} has ${has} of ${names.join(", ")}; give exactly one` }];
}

function unknownText(owner: string, name: string, known: readonly string[]): string {
  const nearest = nearestName(name, known);
  const advice = nearest === undefined ? `it may have ${known.join(", ")}` : `did you mean ${nearest}?`;
  return `${owner} has no ${formatValue(name)}; ${advice}`;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
