/** Documents list what the code has, and what they point at exists. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { CaMemAllocator, CamemError, errorCodes } from "camem";
import { registerMetrics } from "camem/metrics";
import { createHandler, IdleSleep, ModelPool, SleepController } from "camem/server";
import { Counter, Gauge, Registry } from "prom-client";
import { environmentNames } from "../../src/options/allocator-options.ts";

const root = join(import.meta.dir, "../..");
const longestReadmeLines = 130;

function filesOf(...patterns: string[]): string[] {
  return patterns.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync(root)]);
}

const textOf = (path: string) => readFileSync(join(root, path), "utf8");

const documents = filesOf("*.md", "docs/**/*.md", "examples/**/*.md", "bench/**/*.md");

/** The text of a document without code blocks, in which nothing is a heading or a link. */
const proseOf = (path: string) => textOf(path).replace(/^```.*?^```$/gms, "");

/** The cells of the tables below a heading, header and rule left out; of the whole document without a heading. */
function tableRows(path: string, heading?: string): string[][] {
  const sections = proseOf(path).split(/^#+ /m);
  const text =
    heading === undefined ? sections.join("\n") : sections.find((each) => each.startsWith(`${heading}\n`));
  const tables = [...(text ?? "").matchAll(/(?:^\|.*\|\n)+/gm)].map(([table]) =>
    table.trimEnd().split("\n").slice(2),
  );
  return tables.flat().map((row) => row.split(" | ").map((cell) => cell.replace(/^\| | \|$/g, "").trim()));
}

/** A name in code style, such as `device`. */
const nameIn = (cell = "") => /^`([^`]+)`$/.exec(cell)?.[1] ?? cell;

const firstNames = (path: string, heading?: string) =>
  tableRows(path, heading).map(([first]) => nameIn(first));

let allocator: CaMemAllocator;
let engine: SleepController;

beforeAll(() => {
  allocator = CaMemAllocator.getInstance({ backend: "emulator" });
  engine = new SleepController(allocator);
});
afterAll(async () => {
  await engine.close();
  await allocator.close();
});

test("README.md has at most 130 lines", () => {
  expect(textOf("README.md").trimEnd().split("\n").length).toBeLessThanOrEqual(longestReadmeLines);
});

test("troubleshooting.md lists every error code, once", () => {
  const listed = firstNames("docs/troubleshooting.md").filter((name) =>
    /^[A-Z]+(_[A-Z]+)+$|^ABORTED$|^CLOSED$/.test(name),
  );
  expect(listed.toSorted()).toEqual([...errorCodes].toSorted());
});

test("metrics.md lists every metric with its type and labels", async () => {
  const registry = new Registry();
  using _registration = await registerMetrics(registry, { engine, allocator });
  const typeOf = (metric: object) =>
    metric instanceof Gauge ? "gauge" : metric instanceof Counter ? "counter" : "histogram";
  const registered = registry.getMetricsAsArray().map((metric) => {
    // The types of prom-client leave the labels out.
    const { labelNames } = metric as unknown as { readonly labelNames: readonly string[] };
    return [metric.name, typeOf(metric), labelNames.toSorted().join(", ") || "none"];
  });
  const listed = tableRows("docs/metrics.md").map(([name, type = "", labels = ""]) => {
    const names = [...labels.matchAll(/`(\w+)`/g)].map(([, label = ""]) => label);
    return [nameIn(name), type, names.toSorted().join(", ") || labels];
  });
  expect(listed.toSorted()).toEqual(registered.toSorted());
});

/** The error for a misspelt option names the options that exist. */
async function optionsOf(call: () => unknown): Promise<string[]> {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof CamemError)) throw error;
    const [, list = ""] = /has no option "misspelt"; its options are (.*)$/.exec(error.message) ?? [];
    expect(list, error.message).not.toBe("");
    return [...list.matchAll(/"(\w+)"/g)].map(([, name = ""]) => name);
  }
  throw new Error("a misspelt option was accepted");
}

describe("configuration.md lists every option of", () => {
  const misspelt = { misspelt: 1 } as never;
  const calls: Readonly<Record<string, { heading: string; call: () => unknown }>> = {
    getInstance: { heading: "The allocator", call: () => CaMemAllocator.getInstance(misspelt) },
    SleepController: { heading: "The engine", call: () => new SleepController(allocator, misspelt) },
    IdleSleep: { heading: "Idle sleep", call: () => new IdleSleep(engine, misspelt) },
    ModelPool: { heading: "Several engines on a device", call: () => new ModelPool([engine], misspelt) },
    createHandler: { heading: "The administrative routes", call: () => createHandler(misspelt) },
    registerMetrics: { heading: "Metrics", call: () => registerMetrics(new Registry(), misspelt) },
  };
  test.each(Object.entries(calls))("%s", async (_name, { heading, call }) => {
    expect(firstNames("docs/configuration.md", heading).toSorted()).toEqual(
      (await optionsOf(call)).toSorted(),
    );
  });
});

describe("environment variables", () => {
  test("configuration.md lists the variable of each allocator option", () => {
    const rows = tableRows("docs/configuration.md", "The allocator").map(([option, variable]) => [
      nameIn(option),
      nameIn(variable),
    ]);
    expect(Object.fromEntries(rows)).toEqual(environmentNames);
  });

  test("configuration.md mentions every variable that the package or an example reads", () => {
    const sources = filesOf("src/**/*.ts", "examples/**/*.ts").map(textOf);
    const variables = new Set(
      sources.flatMap((text) => text.match(/\bCAMEM(?!_EMULATOR_)(?:_[A-Z]+)+\b/g) ?? []),
    );
    expect(variables.size).toBeGreaterThanOrEqual(Object.keys(environmentNames).length);
    const text = textOf("docs/configuration.md");
    expect([...variables].filter((name) => !text.includes(`\`${name}\``))).toEqual([]);
  });

  test("testing.md lists every variable of the emulator", () => {
    const sources = filesOf("shim/emulator/**/*.zig").map(textOf);
    const variables = new Set(sources.flatMap((text) => text.match(/"CAMEM_EMULATOR_[A-Z]+"/g) ?? []));
    const listed = firstNames("docs/testing.md", "The emulator's variables").map((name) => `"${name}"`);
    expect(listed.toSorted()).toEqual([...variables].toSorted());
  });
});

/** The anchor that a heading gets in rendered Markdown. */
const anchorOf = (heading: string) =>
  heading
    .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .replaceAll(" ", "-");

const anchorsOf = (path: string) =>
  [...proseOf(path).matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) => anchorOf(heading));

function linksOf(path: string): string[] {
  const links = [...proseOf(path).matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = ""]) => target);
  return links.filter((target) => !/^[a-z]+:/.test(target));
}

describe.each(documents)("%s", (path) => {
  test("has relative links and anchors that resolve", () => {
    const broken = linksOf(path).filter((link) => {
      const [file = "", anchor] = link.split("#");
      const target = file === "" ? path : relative(root, join(root, dirname(path), file));
      if (!existsSync(join(root, target))) return true;
      return anchor !== undefined && !anchorsOf(target).includes(anchor);
    });
    expect(broken).toEqual([]);
  });

  test("names files and folders that exist", () => {
    // A .py file is another project's.
    const names = proseOf(path).matchAll(
      /`((?:src|shim|test|bench|examples|scripts|docs)\/[\w./-]+)(?<!\.py)`/g,
    );
    expect([...names].map(([, name = ""]) => name).filter((name) => !existsSync(join(root, name)))).toEqual(
      [],
    );
  });
});

test("promises.md quotes tests by names that they have", () => {
  const quotes = [...textOf("docs/promises.md").matchAll(/`(test\/[\w./-]+\.ts)`((?:, "[^"]+")+)/g)];
  expect(quotes.length).toBeGreaterThan(20);
  for (const [, path = "", titles = ""] of quotes) {
    for (const [, title = ""] of titles.matchAll(/"([^"]+)"/g)) {
      const parts = title.split("…").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
      expect(textOf(path), `${path} has no test "${title}"`).toMatch(
        new RegExp(`["\`].*${parts.join(".*")}`),
      );
    }
  }
});
