/** The Grafana dashboard and the Prometheus alert rules: their queries parse, and ask for metrics and labels that exist. */

import { describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parser } from "@prometheus-io/lezer-promql";
import { scrapedNames, transitionNames } from "../../src/metrics/names.ts";

const folder = join(import.meta.dir, "../../docs/monitoring");

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly for?: string;
  readonly annotations: Readonly<Record<string, string>>;
}

interface Dashboard {
  readonly panels: readonly {
    readonly id: number;
    readonly title: string;
    readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
    readonly targets: readonly { readonly expr: string; readonly legendFormat: string }[];
  }[];
  readonly templating: { readonly list: readonly { readonly name: string; readonly query: string }[] };
}

const alertsPath = join(folder, "alerts.yml");
const { groups } = Bun.YAML.parse(await Bun.file(alertsPath).text()) as {
  readonly groups: readonly { readonly name: string; readonly rules: readonly Rule[] }[];
};
const rules = groups.flatMap((group) => group.rules);
const dashboard: Dashboard = await Bun.file(join(folder, "grafana-dashboard.json")).json();

/** The labels of every series, those that Prometheus adds included; a histogram has several series. */
const labelsOf = new Map(
  [...Object.values(scrapedNames), ...Object.values(transitionNames)].flatMap(({ name, type, labelNames }) =>
    (type === "histogram" ? ["_bucket", "_sum", "_count"] : [""]).map(
      (suffix) => [name + suffix, new Set(["instance", "job", "le", ...labelNames])] as const,
    ),
  ),
);

/** What is wrong with a query; Grafana replaces its variables before it sends one. */
function faultsOf(query: string): string[] {
  const text = query.replaceAll("$__rate_interval", "5m");
  const faults: string[] = [];
  let metric = "";
  const metrics: string[] = [];
  parser.parse(text).iterate({
    enter: ({ name, type, from, to }) => {
      const word = text.slice(from, to);
      if (type.isError) faults.push(`no PromQL at ${from}`);
      if (name === "VectorSelector") {
        metric = /^[\w:]+/.exec(word)?.[0] ?? "";
        metrics.push(metric);
        if (!labelsOf.has(metric)) faults.push(`no metric ${metric}`);
      }
      if (name === "LabelName" && metrics.length > 0 && !labelsOf.get(metric)?.has(word))
        faults.push(`${metric} has no label ${word}`);
    },
  });
  if (metrics.length === 0) faults.push("no metric");
  const grouping = /\b(?:by|without) \(([^)]*)\)/.exec(text)?.[1]?.split(/, */) ?? [];
  for (const label of grouping)
    if (!metrics.some((one) => labelsOf.get(one)?.has(label)))
      faults.push(`no metric has the label ${label}`);
  return faults;
}

test.each([
  ["camem_engine_state{state=", "no PromQL"],
  ["sum(camem_engine_states)", "no metric camem_engine_states"],
  ['camem_engine_state{status="awake"}', "has no label status"],
  ["sum by (model) (camem_engine_state)", "no metric has the label model"],
  ["camem_transition_duration_seconds", "no metric camem_transition_duration_seconds"],
])("faultsOf() finds the fault of %s", (query, fault) => {
  expect(faultsOf(query).join("; ")).toContain(fault);
});

describe("alerts.yml", () => {
  test.each(rules.map(({ alert, ...rule }) => [alert, rule] as const))(
    "%s asks for what exists, and explains itself",
    (_alert, { expr, for: duration = "0s", annotations }) => {
      expect(faultsOf(expr)).toEqual([]);
      expect(duration).toMatch(/^\d+[smh]$/);
      expect(Object.keys(annotations).toSorted()).toEqual(["description", "summary"]);
      const labels = [...JSON.stringify(annotations).matchAll(/\$labels\.(\w+)/g)].map(([, label]) => label);
      const known = [...labelsOf].filter(([name]) => expr.includes(name)).flatMap(([, names]) => [...names]);
      expect(labels.filter((label = "") => !known.includes(label))).toEqual([]);
    },
  );

  test("docs/metrics.md lists every alert", async () => {
    const text = await Bun.file(join(folder, "../metrics.md")).text();
    const listed = [...text.matchAll(/^- `(Camem\w+)`: /gm)].map(([, name]) => name);
    expect(listed).toEqual(rules.map(({ alert }) => alert));
  });

  test.skipIf(Bun.which("promtool") === null)("promtool accepts the rules", () => {
    const { exitCode, stdout, stderr } = Bun.spawnSync(["promtool", "check", "rules", alertsPath]);
    expect([exitCode, `${stdout}${stderr}`]).toEqual([
      0,
      expect.stringContaining(`${rules.length} rules found`),
    ]);
  });

  test.skipIf(Bun.which("promtool") === null).each([
    ["CamemTransitionFails", "camem_transition_failures_total"],
    ["CamemScrapeIncomplete", "camem_scrape_failures_total"],
  ])("%s fires at a first failure, and not for an old one", async (alert, metric) => {
    const expr = `sum by (model_name) (ALERTS{alertname="${alert}"})`;
    const firing = { labels: '{model_name="first"}', value: 1 };
    const evaluation = {
      rule_files: [alertsPath],
      tests: [
        {
          interval: "1m",
          input_series: [
            { series: `${metric}{code="NO_BACKUP",model_name="first"}`, values: "_x30 1x30" },
            { series: `${metric}{code="NO_BACKUP",model_name="old"}`, values: "1x60" },
          ],
          promql_expr_test: [
            { expr, eval_time: "32m", exp_samples: [firing] },
            { expr, eval_time: "59m", exp_samples: [] },
          ],
        },
      ],
    };
    const path = join(tmpdir(), `camem-alerts-${process.pid}.yml`);
    await Bun.write(path, JSON.stringify(evaluation));
    const { exitCode, stdout, stderr } = Bun.spawnSync(["promtool", "test", "rules", path]);
    rmSync(path);
    expect([exitCode, `${stdout}${stderr}`]).toEqual([0, expect.stringContaining("SUCCESS")]);
  });
});

describe("grafana-dashboard.json", () => {
  test.each(dashboard.panels.map(({ title, targets }) => [title, targets] as const))(
    "panel %s asks for what exists",
    (_title, targets) => {
      expect(targets.length).toBeGreaterThan(0);
      for (const { expr, legendFormat } of targets) {
        expect([expr, faultsOf(expr)]).toEqual([expr, []]);
        const labels = [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label]) => label);
        const grouped = /\bby \(([^)]*)\)/.exec(expr)?.[1]?.split(/, */);
        if (grouped !== undefined)
          expect(labels.filter((label = "") => !grouped.includes(label))).toEqual([]);
      }
    },
  );

  test("panels have ids of their own and do not overlap", () => {
    expect(new Set(dashboard.panels.map(({ id }) => id)).size).toBe(dashboard.panels.length);
    const cells = dashboard.panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, cell) => `${x + (cell % w)} ${y + Math.floor(cell / w)}`),
    );
    expect(new Set(cells).size).toBe(cells.length);
  });

  test("variables that queries use are defined", () => {
    const defined = ["__rate_interval", "__all", ...dashboard.templating.list.map(({ name }) => name)];
    const used = [...JSON.stringify(dashboard).matchAll(/\$\{?(\w+)/g)].map(([, name = ""]) => name);
    expect(used.filter((name) => !defined.includes(name))).toEqual([]);
    expect(
      faultsOf(dashboard.templating.list[1]?.query.replace(/^label_values\((\w+),.*/, "$1") ?? ""),
    ).toEqual([]);
  });
});
