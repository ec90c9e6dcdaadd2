/** Draws the results as charts, in SVG without external resources. */

import { join } from "node:path";
import { parse, View } from "vega";
import { type Config, compile, type TopLevelSpec } from "vega-lite";
import { formatSize } from "../src/options/sizes.ts";
import type { Figure, Results } from "./schema.ts";

const config: Config = {
  background: "white",
  padding: 12,
  font: "system-ui, sans-serif",
  title: { anchor: "start", fontSize: 15, subtitleFontSize: 11, subtitleColor: "#555", offset: 12 },
  axis: { labelFontSize: 11, titleFontSize: 12, gridColor: "#e6e6e6" },
  legend: { labelFontSize: 11, titleFontSize: 12, labelLimit: 320, orient: "bottom" },
  header: { labelFontSize: 12, labelFontWeight: "bold" },
  line: { strokeWidth: 2.5 },
  point: { size: 45, filled: true },
};

/** The legend shows each line with its dashes. */
function lineConfig(columns: number): Config {
  const symbol = { symbolType: "stroke", symbolSize: 500, symbolStrokeWidth: 2.5 } as const;
  return { ...config, legend: { ...config.legend, ...symbol, columns } };
}

/** One point of a chart. */
interface Datum {
  readonly series: string;
  readonly operation: string;
  readonly x: number;
  readonly y: number;
}

interface Series {
  readonly name: string;
  readonly colour: string;
  readonly dash: readonly number[];
}

/** Limits are dashed and grey, the peers red. camem's colours are safe for colour-blind readers. */
const limitStyle = { colour: "#666666", dash: [6, 4] } as const;
const peersStyle = { colour: "#d1495b", dash: [2, 3] } as const;

function seriesScales(series: readonly Series[]) {
  const domain = series.map(({ name }) => name);
  return {
    color: { domain, range: series.map(({ colour }) => colour) },
    dash: { domain, range: series.map(({ dash }) => [...dash]) },
  };
}

/** Names the device and the machine of a run. */
function subtitleOf({ device, machine, quick }: Results): string {
  return `${device.soc}${quick ? ", quick run" : ""}; ${machine.cpu}, ${machine.cores} cores; medians`;
}

const gibPerSecond = (sizeBytes: number, ms: number) => sizeBytes / 2 ** 30 / (ms / 1000);

function throughputData(figures: readonly Figure[]): Datum[] {
  const data: Datum[] = [];
  const add = (series: string, { operation, sizeBytes }: Figure, ms: number | undefined) => {
    if (ms === undefined) return;
    data.push({ series, operation, x: sizeBytes / 2 ** 20, y: gibPerSecond(sizeBytes, ms) });
  };
  for (const figure of figures) {
    if (figure.case === "prepared") add("limit: C copy loop", figure, figure.limit?.value.median);
    if (figure.case === "prepared") add("camem, prepared", figure, figure.value.median);
    if (figure.case === "cold") add("camem, cold", figure, figure.value.median);
    if (figure.case === "cold") add("peers' algorithm", figure, figure.peers?.value.median);
    if (figure.case === "file" && figure.operation === "wake")
      add("camem, from the checkpoint", figure, figure.value.median);
  }
  return data;
}

/** Keeps the layout with the fewest segments for each size. */
function withFewestSegments(figures: readonly Figure[]): Figure[] {
  return figures.filter((figure) =>
    figures.every((other) => other.sizeBytes !== figure.sizeBytes || other.segments >= figure.segments),
  );
}

function throughputChart(results: Results): TopLevelSpec {
  const transitions = results.figures.filter(({ scenario }) => scenario === "transitions");
  const scales = seriesScales([
    { name: "limit: C copy loop", ...limitStyle },
    { name: "camem, prepared", colour: "#0072b2", dash: [1, 0] },
    { name: "camem, cold", colour: "#56b4e9", dash: [1, 0] },
    { name: "camem, from the checkpoint", colour: "#e69f00", dash: [1, 0] },
    { name: "peers' algorithm", ...peersStyle },
  ]);
  return {
    title: { text: "Throughput of sleep and wake-up by size", subtitle: subtitleOf(results) },
    data: { values: throughputData(withFewestSegments(transitions)) },
    facet: {
      column: { field: "operation", title: null, header: { labelExpr: "'level 1: ' + datum.value" } },
    },
    spec: {
      width: 330,
      height: 280,
      mark: { type: "line", point: true },
      encoding: {
        x: {
          field: "x",
          type: "quantitative",
          title: "size in MiB",
          scale: { type: "log", base: 2 },
          axis: { format: "d" },
        },
        y: { field: "y", type: "quantitative", title: "GiB/s" },
        color: { field: "series", type: "nominal", title: null, scale: scales.color },
        strokeDash: { field: "series", type: "nominal", title: null, scale: scales.dash },
      },
    },
    config: lineConfig(3),
  };
}

function countChart(results: Results): TopLevelSpec {
  const data = results.figures
    .filter(({ scenario }) => scenario === "counts")
    .flatMap(({ operation, segments, value, limit }): Datum[] => {
      const perSegment = (ms: number) => (ms * 1000) / segments;
      const camem = { series: "camem", operation, x: segments, y: perSegment(value.median) };
      if (limit === undefined) return [camem];
      const calls = { series: "limit: the same calls in C", operation, x: segments };
      return [camem, { ...calls, y: perSegment(limit.value.median) }];
    });
  const scales = seriesScales([
    { name: "camem", colour: "#0072b2", dash: [1, 0] },
    { name: "limit: the same calls in C", ...limitStyle },
  ]);
  return {
    title: {
      text: "Cost of a segment by the number of segments (2 MiB each, level 2)",
      subtitle: subtitleOf(results),
    },
    data: { values: data },
    facet: { column: { field: "operation", title: null } },
    spec: {
      width: 330,
      height: 240,
      mark: { type: "line", point: true },
      encoding: {
        x: { field: "x", type: "quantitative", title: "segments", scale: { type: "log", base: 4 } },
        y: {
          field: "y",
          type: "quantitative",
          title: "µs per segment",
          scale: { type: "log", base: 10, nice: true },
        },
        color: { field: "series", type: "nominal", title: null, scale: scales.color },
        strokeDash: { field: "series", type: "nominal", title: null, scale: scales.dash },
      },
    },
    config: lineConfig(2),
  };
}

const phases = {
  outside: { label: "JavaScript and polling", colour: "#999999" },
  starting: { label: "starting the plan", colour: "#cccccc" },
  waiting: { label: "waiting for the device", colour: "#f0e442" },
  preparing: { label: "page-locking host memory", colour: "#d55e00" },
  verifying: { label: "checking backups", colour: "#8c6d31" },
  mapping: { label: "mapping", colour: "#009e73" },
  copying: { label: "copying", colour: "#0072b2" },
  releasing: { label: "releasing memory", colour: "#cc79a7" },
  total: { label: "the peers' algorithm, all blocking", colour: peersStyle.colour },
} as const;

type PhaseName = keyof typeof phases;

const cases = ["cold", "first after prepare", "prepared", "clean", "file", "level 2"];
const peersCase = "peers' algorithm";

/** The largest measured size up to 1 GiB, which most cases share. */
function commonSize(figures: readonly Figure[]): number {
  return Math.max(...figures.map(({ sizeBytes }) => sizeBytes).filter((size) => size <= 2 ** 30));
}

function phaseData(figures: readonly Figure[]) {
  const size = commonSize(figures);
  return figures
    .filter(({ sizeBytes }) => sizeBytes === size)
    .flatMap((figure) => {
      const entries = Object.entries(figure.phases ?? {}) as [PhaseName, number][];
      const own = entries.map(([phase, ms]) => ({
        case: figure.case,
        operation: figure.operation,
        phase: phases[phase].label,
        order: Object.keys(phases).indexOf(phase),
        ms,
      }));
      if (figure.case !== "cold" || figure.peers === undefined) return own;
      const total = { phase: phases.total.label, order: 99, ms: figure.peers.value.median };
      return [...own, { case: peersCase, operation: figure.operation, ...total }];
    });
}

function phaseChart(results: Results): TopLevelSpec {
  const transitions = withFewestSegments(
    results.figures.filter(({ scenario }) => scenario === "transitions"),
  );
  const styles = Object.values(phases);
  return {
    title: {
      text: `Phases of a sleep and wake-up of ${formatSize(commonSize(transitions))}`,
      subtitle: subtitleOf(results),
    },
    data: { values: phaseData(transitions) },
    facet: { column: { field: "operation", title: null } },
    spec: {
      width: 330,
      height: { step: 30 },
      mark: "bar",
      encoding: {
        y: { field: "case", type: "nominal", title: null, sort: [peersCase, ...cases] },
        x: { field: "ms", type: "quantitative", title: "milliseconds" },
        order: { field: "order", type: "quantitative" },
        color: {
          field: "phase",
          type: "nominal",
          title: null,
          scale: { domain: styles.map(({ label }) => label), range: styles.map(({ colour }) => colour) },
        },
      },
    },
    config: { ...config, legend: { ...config.legend, columns: 4 } },
  };
}

function loadingChart(results: Results): TopLevelSpec {
  const limitName = "limit: a C loop";
  const loads = results.figures.filter(
    ({ scenario, operation }) => scenario === "loading" && operation === "load",
  );
  const data = loads.flatMap(({ case: from, sizeBytes, value, limit }) => {
    const camem = { from, series: "camem", y: gibPerSecond(sizeBytes, value.median) };
    if (limit === undefined) return [camem];
    return [camem, { from, series: limitName, y: gibPerSecond(sizeBytes, limit.value.median) }];
  });
  const scales = seriesScales([
    { name: "camem", colour: "#0072b2", dash: [1, 0] },
    { name: limitName, ...limitStyle },
  ]);
  const sizeBytes = Math.max(...loads.map((figure) => figure.sizeBytes));
  return {
    title: { text: `Loading ${formatSize(sizeBytes)} of tensors`, subtitle: subtitleOf(results) },
    data: { values: data },
    width: 520,
    height: { step: 22 },
    mark: "bar",
    encoding: {
      y: { field: "from", type: "nominal", title: null, sort: null },
      yOffset: { field: "series", sort: scales.color.domain },
      x: { field: "y", type: "quantitative", title: "GiB/s" },
      color: { field: "series", type: "nominal", title: null, scale: scales.color },
    },
    config,
  };
}

const charts: Readonly<Record<string, (results: Results) => TopLevelSpec>> = {
  "throughput.svg": throughputChart,
  "cost-per-segment.svg": countChart,
  "phases.svg": phaseChart,
  "loading.svg": loadingChart,
};

/** Draws every chart into `folder` and returns the file names. */
export async function drawCharts(results: Results, folder: string): Promise<string[]> {
  for (const [name, chart] of Object.entries(charts)) {
    const view = new View(parse(compile(chart(results)).spec), { renderer: "none" });
    await Bun.write(join(folder, name), `${await view.toSVG()}\n`);
    view.finalize();
  }
  return Object.keys(charts);
}
