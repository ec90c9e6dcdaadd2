/** `bun:test` for Deno: deno.json maps that import to this module. Jest's `expect`, and tests of `Deno.test`. */

import { format, inspect } from "node:util";
import { expect as jestExpect } from "expect";
import { ModuleMocker } from "jest-mock";
import { onlyOnBun } from "./only-on-bun.ts";

type Body = () => unknown;

declare const Deno: {
  test(definition: {
    readonly name: string;
    readonly ignore: boolean;
    readonly sanitizeOps: boolean;
    readonly sanitizeResources: boolean;
    readonly fn: () => Promise<void>;
  }): void;
};

/** A `describe`, or the file. */
class Suite {
  readonly beforeAll: Body[] = [];
  readonly afterAll: Body[] = [];
  readonly beforeEach: Body[] = [];
  readonly afterEach: Body[] = [];
  readonly parent: Suite | undefined;
  readonly #name: string;
  #started: Promise<void> | undefined;
  #waiting = 0;

  constructor(name: string, parent?: Suite) {
    this.#name = name;
    this.parent = parent;
  }

  /** Outermost first. */
  get chain(): readonly Suite[] {
    return [...(this.parent?.chain ?? []), this];
  }

  nameOf(test: string): string {
    const names = this.chain.map((suite) => suite.#name);
    return [...names, test].filter((name) => name !== "").join(" > ");
  }

  expectTest(): void {
    this.#waiting++;
  }

  start(): Promise<void> {
    this.#started ??= runAll(this.beforeAll);
    return this.#started;
  }

  async endTest(): Promise<void> {
    this.#waiting--;
    if (this.#waiting === 0) await runAll(this.afterAll);
  }
}

async function runAll(bodies: readonly Body[]): Promise<void> {
  for (const body of bodies) await body();
}

let current = new Suite("");

export const beforeAll = (body: Body) => void current.beforeAll.push(body);
export const afterAll = (body: Body) => void current.afterAll.push(body);
export const beforeEach = (body: Body) => void current.beforeEach.push(body);
export const afterEach = (body: Body) => void current.afterEach.push(body);

/** Every test may take a minute, as `npm test` tells Bun. */
const defaultTimeoutMs = 60_000;

async function within(durationMs: number, body: Body): Promise<void> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`the test took more than ${durationMs} ms`)), durationMs);
  try {
    await Promise.race([body(), promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function run(suite: Suite, body: Body, timeoutMs: number): Promise<void> {
  const outermostFirst = suite.chain;
  const innermostFirst = outermostFirst.toReversed();
  try {
    for (const each of outermostFirst) await each.start();
    try {
      for (const each of outermostFirst) await runAll(each.beforeEach);
      await within(timeoutMs, body);
    } finally {
      for (const each of innermostFirst) await runAll(each.afterEach);
    }
  } finally {
    for (const each of innermostFirst) await each.endTest();
  }
}

function addTest(isSkipped: boolean, name: string, body: Body, timeoutMs = defaultTimeoutMs): void {
  const suite = current;
  const ignore =
    isSkipped || onlyOnBun.some(({ tests = [] }) => tests.some((start) => name.startsWith(start)));
  if (!ignore) for (const each of suite.chain) each.expectTest();
  const fn = () => run(suite, body, timeoutMs);
  Deno.test({ name: suite.nameOf(name), ignore, sanitizeOps: false, sanitizeResources: false, fn });
}

function addSuite(isSkipped: boolean, name: string, body: Body): void {
  if (isSkipped) return;
  const outer = current;
  current = new Suite(name, outer);
  body();
  current = outer;
}

/** Inserts a row of a table into a name, as Bun does: `%s` and the like in order, `$name` by property. */
function nameOfRow(name: string, row: readonly unknown[]): string {
  const rest = [...row];
  const [first] = row;
  return name
    .replace(/%[sdijop]/g, (mark) => (mark === "%p" ? inspect(rest.shift()) : format(mark, rest.shift())))
    .replace(/\$(\w+)/g, (mark, key) =>
      typeof first === "object" && first !== null && key in first
        ? format("%s", (first as Record<string, unknown>)[key])
        : mark,
    );
}

type Add = (isSkipped: boolean, name: string, body: Body, timeoutMs?: number) => void;
type Register = (name: string, body: (...row: never[]) => unknown, timeoutMs?: number) => void;

/** `test` or `describe`, with their variants. */
function registrar(add: Add) {
  const variant = (isSkipped: boolean) => {
    const register: Register = (name, body, timeoutMs) => add(isSkipped, name, body, timeoutMs);
    const each =
      (table: readonly unknown[]): Register =>
      (name, body, timeoutMs) => {
        for (const entry of table) {
          const row = (Array.isArray(entry) ? entry : [entry]) as never[];
          add(isSkipped, nameOfRow(name, row), () => body(...row), timeoutMs);
        }
      };
    return Object.assign(register, { each });
  };
  return Object.assign(variant(false), {
    skip: variant(true),
    concurrent: variant(false),
    if: (condition: boolean) => variant(!condition),
    skipIf: (condition: boolean) => variant(condition),
  });
}

export const test = registrar(addTest);
export const describe = registrar(addSuite);

const mocker = new ModuleMocker(globalThis);
export const spyOn = mocker.spyOn.bind(mocker);
export const mock = (body?: (...values: unknown[]) => unknown) => mocker.fn(body);

/** Jest compares large arrays byte by byte. */
const sameBytes = (first: unknown, second: unknown) =>
  first instanceof Uint8Array && second instanceof Uint8Array
    ? Buffer.compare(first, second) === 0
    : undefined;

const verdict = (pass: boolean, received: unknown, relation: string, expected: unknown) => ({
  pass,
  message: () => `${inspect(received)} ${pass ? "does" : "does not"} ${relation} ${inspect(expected)}`,
});

jestExpect.addEqualityTesters([sameBytes]);
jestExpect.extend({
  toStartWith: (received: string, start: string) =>
    verdict(received.startsWith(start), received, "start with", start),
  toEndWith: (received: string, end: string) => verdict(received.endsWith(end), received, "end with", end),
  toBeOneOf: (received: unknown, values: readonly unknown[]) =>
    verdict(values.includes(received), received, "equal one of", values),
});

/** A second argument is Bun's message for a failure, which Jest has not. */
export const expect = Object.assign((received: unknown) => jestExpect(received), jestExpect);
