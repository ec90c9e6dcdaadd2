/** The benchmark runs and writes its results. Durations are not asserted, because machines differ. */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Value } from "typebox/value";
import { worseFigures } from "../../bench/compare.ts";
import { worseTable } from "../../bench/report.ts";
import { type Comparison, type Figure, Results, type Statistic } from "../../bench/schema.ts";
import { targets } from "../../bench/targets.ts";

const root = join(import.meta.dir, "../..");
const program = join(root, "bench/main.ts");
const folder = mkdtempSync(join(tmpdir(), "camem-bench-test-"));
const limitMs = 300_000;

afterAll(() => rmSync(folder, { recursive: true }));

async function bench(...args: string[]): Promise<{ stdout: string; stderr: string; exitCode: number }> {
  const child = Bun.spawn([process.execPath, program, ...args], {
    cwd: root,
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, exitCode] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { stdout, stderr, exitCode };
}

const isRatio = ({ median, p25, p75 }: Statistic) =>
  [median, p25, p75].every((value) => Number.isFinite(value) && value > 0);

/** A difference between two measurements may have any sign. */
const isDifference = ({ median, p25, p75 }: Statistic) => [median, p25, p75].every(Number.isFinite);

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

    const markdown = readFileSync(join(folder, "latest.md"), "utf8");
    for (const { figure } of targets) {
      expect(markdown).toContain(figure);
      expect(stdout).toContain(figure);
    }
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

/** The committed version of a file; outside a git checkout the file itself. */
function committed(path: string): string {
  const shown = Bun.spawnSync(["git", "show", `HEAD:${path}`], { cwd: root, stderr: "ignore" });
  return shown.success ? shown.stdout.toString() : readFileSync(join(root, path), "utf8");
}

test("docs/performance.md quotes the committed full run of the benchmark", () => {
  const results = JSON.parse(committed("bench/results/latest.json"));
  const { quick, targets: rows, machine } = Value.Parse(Results, results);
  expect(quick).toBe(false);
  const { cores, cpu, memoryBytes } = machine;
  const quoted = [
    `${cores} cores of an ${cpu} with ${Math.round(memoryBytes / 2 ** 30)} GiB`,
    ...rows.map(({ figure, measured, target, value, unit }) => {
      const median = `${Number(value.median.toPrecision(3))} ${unit}`;
      return `| ${figure}: ${measured.split(";")[0]} | ${target} | ${median} |`;
    }),
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

test("worseFigures names what is worse beyond the ratio and the spread, by its limit where it has one", () => {
  const earlier = Value.Parse(Results, JSON.parse(committed("bench/results/latest.json")));
  expect(worseFigures(earlier, earlier, 1)).toEqual([]);
  const scaled = ({ median, p25, p75, rounds }: Statistic, by: number, spread = 1) => ({
    median: median * by,
    p25: (p25 * by) / spread,
    p75: p75 * by * spread,
    rounds,
  });
  const [withLimit, noisy] = earlier.figures.filter(({ limit }) => limit !== undefined);
  const plain = earlier.figures.find(({ limit }) => limit === undefined);
  const figures = earlier.figures.map((figure): Figure => {
    const { limit, value } = figure;
    if (figure === withLimit && limit)
      return { ...figure, limit: { ...limit, ratio: scaled(limit.ratio, 4) } };
    if (figure === noisy && limit)
      return { ...figure, limit: { ...limit, ratio: scaled(limit.ratio, 2, 9) } };
    // A slower machine is slower in its limit as well.
    return figure === plain ? { ...figure, value: scaled(value, 3) } : { ...figure, value };
  });
  const worse = worseFigures({ ...earlier, figures }, earlier, 1.1);
  expect(worse.map(({ factor, isRatio }) => [Math.round(factor), isRatio])).toEqual([
    [4, true],
    [3, false],
  ]);
  expect(worseFigures({ ...earlier, figures }, earlier, 3.5)).toHaveLength(1);
  expect(worseTable(worse).split("\n")).toHaveLength(4);
});
