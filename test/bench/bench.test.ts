/** The benchmark runs and writes its results. Durations are not asserted, because machines differ. */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Value } from "typebox/value";
import { worseFigures } from "../../bench/compare.ts";
import { modelsTable, quotedSections, summary, worseTable } from "../../bench/report.ts";
import { alternate } from "../../bench/rounds.ts";
import { type Comparison, type Figure, Results, type Statistic } from "../../bench/schema.ts";
import { targets } from "../../bench/targets.ts";
import { outcomeOf } from "../support/program.ts";

const root = join(import.meta.dir, "../..");
const program = join(root, "bench/main.ts");
const folder = mkdtempSync(join(tmpdir(), "camem-bench-test-"));
const limitMs = 300_000;

afterAll(() => rmSync(folder, { recursive: true }));

const bench = (...args: string[]) => outcomeOf([process.execPath, program, ...args], { cwd: root });

const isRatio = ({ median, p25, p75 }: Statistic) =>
  [median, p25, p75].every((value) => Number.isFinite(value) && value > 0);

/** A difference between two measurements may have any sign. */
const isDifference = ({ median, p25, p75 }: Statistic) => [median, p25, p75].every(Number.isFinite);

const modelOperations = ["sleep after prepare", "first sleep", "wake-up", "first token", "host memory"];

/** Each model has all its figures in segments of either size, on each device, beside those of the peers. */
function expectModels({ device, figures }: Results): void {
  const own = figures.filter(({ scenario }) => scenario === "models");
  const cases = Map.groupBy(own, (figure) => `${figure.case}, ${figure.sizeBytes / figure.segments}`);
  const devices = device.backend === "ascend" ? [device.soc] : ["timing model", "emulator"];
  const names = devices.flatMap((name) =>
    [2, 32].map((size) => `4 layers of 0.6B, ${name}, ${size * 2 ** 20}`),
  );
  expect([...cases.keys()]).toEqual(names);
  for (const row of cases.values()) expect(row.map(({ operation }) => operation)).toEqual(modelOperations);
  expect(own.filter(({ peers }) => peers === undefined)).toEqual([]);
  const host = own.filter(({ operation }) => operation === "host memory");
  for (const { sizeBytes, value, peers } of host) {
    expect(value.median / sizeBytes).toBeWithin(1, 1.1);
    expect((peers?.value.median ?? 0) / sizeBytes).toBeWithin(1, 1.1);
  }
}

test(
  "bench measures every target and writes JSON, Markdown and charts",
  async () => {
    const { stdout, stderr, exitCode } = await bench("--quick", "--json", "--out", folder);
    expect(exitCode, stderr).toBe(0);
    expect(stderr).toMatch(/^measured on: /);

    const results = Value.Parse(Results, JSON.parse(readFileSync(join(folder, "latest.json"), "utf8")));
    expect(JSON.parse(stdout)).toEqual(results);
    expect(results.quick).toBe(true);
    expect(results.targets.map(({ id }) => id)).toEqual(targets.map(({ id }) => id));
    for (const { id, unit, value } of results.targets)
      expect(unit === "ns" ? isDifference(value) : isRatio(value), `${id}: ${JSON.stringify(value)}`).toBe(
        true,
      );
    const compared = results.figures.flatMap(({ limit, peers }): Comparison[] =>
      [limit, peers].filter((comparison) => comparison !== undefined),
    );
    expect(compared.length).toBeGreaterThan(40);
    for (const { what, ratio } of compared) expect(isRatio(ratio), what).toBe(true);
    expectModels(results);

    const markdown = readFileSync(join(folder, "latest.md"), "utf8");
    for (const { figure } of targets) {
      expect(markdown).toContain(figure);
      expect(stdout).toContain(figure);
    }
    for (const text of [markdown, summary(results)])
      expect(text.indexOf(modelsTable(results)) + 1).toBeWithin(1, text.indexOf(targets[0]?.figure ?? ""));
    const charts = [...markdown.matchAll(/\]\(([\w-]+\.svg)\)/g)].map(([, name = ""]) => name);
    expect(charts.length).toBeGreaterThanOrEqual(2);
    for (const name of charts) {
      const svg = readFileSync(join(folder, name), "utf8");
      expect(svg, name).toStartWith("<svg");
      expect(svg, name).not.toMatch(/NaN|undefined/);
    }
  },
  limitMs,
);

test("modelsTable has a row for each model and segment size, and the notes on models alone", () => {
  const results = Value.Parse(Results, JSON.parse(committed("bench/results/latest.json")));
  const others = results.figures.filter(({ scenario }) => scenario !== "models");
  const exact = (median: number) => ({ median, p25: median, p75: median, rounds: 1 });
  const figure = (operation: string, unit: "ms" | "bytes", own: number, theirs: number): Figure => ({
    ...{ scenario: "models", case: "8B, a device", operation, sizeBytes: 2 ** 34, segments: 512, unit },
    value: exact(own),
    peers: { what: "the peers", value: exact(theirs), ratio: exact(own / theirs) },
  });
  const figures = [
    ...others,
    figure("sleep after prepare", "ms", 683.1, 4437.6),
    figure("first sleep", "ms", 1881, 4437.6),
    figure("host memory", "bytes", 2 ** 34, 2 ** 33),
  ];
  const section = modelsTable({ ...results, figures, notes: ["models: a link", "of something else"] });
  const rows = section.split("\n").filter((line) => line.startsWith("| "));
  expect(rows).toHaveLength(3);
  expect(
    rows
      .at(-1)
      ?.split("|")
      .map((cell) => cell.trim()),
  ).toEqual([
    "",
    "8B, a device",
    "512 × 32 MiB",
    "683 ms",
    "1.88 s",
    "4.44 s",
    "",
    "",
    "",
    "",
    "16 GiB",
    "8 GiB",
    "",
  ]);
  expect(section).toEndWith("\n\n- a link");
});

test("alternate runs each part once for a round without warm-up", async () => {
  const runs: string[] = [];
  const part = (name: string) => () => {
    runs.push(name);
    return { ms: 1 };
  };
  await alternate({ one: part("one"), two: part("two") }, { rounds: 2, warmUp: false });
  expect(runs).toEqual(["one", "two", "two", "one"]);
});

/** The committed version of a file; outside a git checkout the file itself. */
function committed(path: string): string {
  const shown = Bun.spawnSync(["git", "show", `HEAD:${path}`], { cwd: root, stderr: "ignore" });
  return shown.success ? shown.stdout.toString() : readFileSync(join(root, path), "utf8");
}

test("docs/performance.md quotes the committed full run of the benchmark", () => {
  const results = JSON.parse(committed("bench/results/latest.json"));
  const parsed = Value.Parse(Results, results);
  expect(parsed.quick).toBe(false);
  const { cores, cpu, memoryBytes } = parsed.machine;
  const quoted = [
    `${cores} cores of an ${cpu} with ${Math.round(memoryBytes / 2 ** 30)} GiB`,
    quotedSections(parsed),
  ];
  const page = readFileSync(join(root, "docs/performance.md"), "utf8");
  expect(quoted.filter((text) => !page.includes(text))).toEqual([]);
});

test.each([
  { args: ["--fast"], message: "--fast" },
  { args: ["--out"], message: "--out" },
  { args: ["--out", ""], message: "--out is empty" },
  { args: ["everything"], message: "everything" },
  { args: ["--compare", "/nothing.json"], message: "cannot read /nothing.json" },
  { args: ["--compare", "package.json"], message: "no results of this benchmark" },
  { args: ["--quick", "--compare", "bench/results/latest.json"], message: "leave --quick out" },
  { args: ["--beyond", "1.2"], message: "--beyond needs --compare" },
  { args: ["--compare", "bench/results/latest.json", "--beyond", "0.5"], message: '--beyond is "0.5"' },
])("bench refuses $args", async ({ args, message }) => {
  const { stderr, exitCode } = await bench(...args);
  expect(exitCode).toBe(2);
  expect(stderr).toContain(message);
  expect(stderr).toContain("usage: bun run bench");
});

test("worseFigures names what is worse beyond the ratio and the spread, by its limit or the peers where it has one", () => {
  const earlier = Value.Parse(Results, JSON.parse(committed("bench/results/latest.json")));
  expect(worseFigures(earlier, earlier, 1)).toEqual([]);
  const scaled = ({ median, p25, p75, rounds }: Statistic, by: number, spread = 1) => ({
    median: median * by,
    p25: (p25 * by) / spread,
    p75: p75 * by * spread,
    rounds,
  });
  const [withLimit, noisy] = earlier.figures.filter(({ limit }) => limit !== undefined);
  const beside = earlier.figures.find(({ limit, peers }) => limit === undefined && peers !== undefined);
  const plain = earlier.figures.find(({ limit, peers }) => limit === undefined && peers === undefined);
  const figures = earlier.figures.map((figure): Figure => {
    const { limit, peers, value } = figure;
    if (figure === withLimit && limit)
      return { ...figure, limit: { ...limit, ratio: scaled(limit.ratio, 4) } };
    if (figure === noisy && limit)
      return { ...figure, limit: { ...limit, ratio: scaled(limit.ratio, 2, 9) } };
    if (figure === beside && peers) return { ...figure, peers: { ...peers, ratio: scaled(peers.ratio, 5) } };
    // A slower machine is slower in its limit and for the peers as well.
    const isCompared = limit !== undefined || peers !== undefined;
    return figure === plain || isCompared ? { ...figure, value: scaled(value, 3) } : figure;
  });
  const worse = worseFigures({ ...earlier, figures }, earlier, 1.1);
  expect(worse.map(({ factor, reference }) => [Math.round(factor), reference])).toEqual([
    [5, "peers"],
    [4, "limit"],
    [3, undefined],
  ]);
  expect(worseFigures({ ...earlier, figures }, earlier, 3.5)).toHaveLength(2);
  expect(worseTable(worse).split("\n")).toHaveLength(5);
});
