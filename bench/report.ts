/** Renders the results as Markdown tables, for `latest.md` and the terminal. */

import { formatSize } from "../src/options/sizes.ts";
import type { ComparedFigure } from "./compare.ts";
import type { Comparison, Device, Figure, Machine, Results, Statistic, TargetRow } from "./schema.ts";

/** Three significant digits: noise hides any further digit. */
function number(value: number): string {
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}

function amount(value: number, unit: Figure["unit"]): string {
  return unit === "bytes" ? formatSize(Math.round(value)) : `${number(value)} ${unit}`;
}

const spread = ({ p25, p75 }: Statistic) => `${number(p25)} to ${number(p75)}`;

interface Column<Row> {
  readonly title: string;
  readonly align?: "right";
  readonly cell: (row: Row) => string;
}

/** A Markdown table with padded columns, so that the source is readable too. */
function table<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const padded = columns.map(({ title, align, cell }) => {
    const cells = [title, ...rows.map(cell)];
    const width = Math.max(3, ...cells.map((text) => text.length));
    const rule = align === "right" ? `${"-".repeat(width - 1)}:` : "-".repeat(width);
    const pad = (text: string) => (align === "right" ? text.padStart(width) : text.padEnd(width));
    return [pad(title), rule, ...cells.slice(1).map(pad)];
  });
  const lines = Array.from({ length: rows.length + 2 }, (_, line) => padded.map((cells) => cells[line]));
  return lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

export function describeDevice({ backend, reason, soc, library, timingModel }: Device): string {
  const kind = backend === "ascend" ? "an NPU" : "the emulator, not an NPU";
  const model = timingModel ? "; times of copies and calls are those of its timing model" : "";
  return `measured on: ${kind} (${reason}): ${soc}, ${library}${model}`;
}

export function describeMachine({ cpu, cores, memoryBytes, kernel, bun }: Machine): string {
  return `machine: ${cpu}, ${cores} cores, ${formatSize(memoryBytes)} of memory, Linux ${kernel}, Bun ${bun}`;
}

const targetColumns: readonly Column<TargetRow>[] = [
  { title: "figure", cell: ({ figure }) => figure },
  { title: "measured", cell: ({ measured }) => measured },
  { title: "target", cell: ({ target }) => target },
  { title: "median", align: "right", cell: ({ value, unit }) => `${number(value.median)} ${unit}` },
  { title: "p25 to p75", cell: ({ value }) => spread(value) },
  { title: "met", cell: ({ isMet }) => (isMet ? "yes" : "no") },
];

const gibPerSecond = (sizeBytes: number, ms: number) => number(sizeBytes / 2 ** 30 / (ms / 1000));
const perSegment = (ms: number, segments: number) => `${number((ms * 1000) / segments)} µs`;

type FigureColumn = Column<Figure>;

const operationColumn: FigureColumn = { title: "operation", cell: ({ operation }) => operation };
const segmentsColumn: FigureColumn = {
  title: "segments",
  align: "right",
  cell: ({ segments }) => segments.toLocaleString("en"),
};
const medianColumn: FigureColumn = {
  title: "median",
  align: "right",
  cell: ({ value, unit }) => amount(value.median, unit),
};
const leadingColumns: readonly FigureColumn[] = [
  { title: "case", cell: (figure) => figure.case },
  operationColumn,
  { title: "size", align: "right", cell: ({ sizeBytes }) => formatSize(sizeBytes) },
  segmentsColumn,
];

function ratioColumn(comparisonOf: (figure: Figure) => Comparison | undefined): FigureColumn {
  const cell = (comparison: Comparison | undefined) =>
    comparison === undefined ? "" : `${number(comparison.ratio.median)} ×`;
  return { title: "ratio", align: "right", cell: (figure) => cell(comparisonOf(figure)) };
}

function comparisonColumns(
  title: string,
  comparisonOf: (figure: Figure) => Comparison | undefined,
): FigureColumn[] {
  const cell = (comparison: Comparison | undefined, unit: Figure["unit"]) =>
    comparison === undefined ? "" : amount(comparison.value.median, unit);
  return [
    { title, align: "right", cell: (figure) => cell(comparisonOf(figure), figure.unit) },
    ratioColumn(comparisonOf),
  ];
}

const transitionColumns: readonly FigureColumn[] = [
  ...leadingColumns,
  medianColumn,
  { title: "p25 to p75", cell: ({ value }) => spread(value) },
  { title: "GiB/s", align: "right", cell: ({ sizeBytes, value }) => gibPerSecond(sizeBytes, value.median) },
  ...comparisonColumns("limit", ({ limit }) => limit),
  ...comparisonColumns("peers", ({ peers }) => peers),
];

const countColumns: readonly FigureColumn[] = [
  operationColumn,
  segmentsColumn,
  medianColumn,
  {
    title: "per segment",
    align: "right",
    cell: ({ value, segments }) => perSegment(value.median, segments),
  },
  {
    title: "C loop, per segment",
    align: "right",
    cell: ({ limit, segments }) => (limit ? perSegment(limit.value.median, segments) : ""),
  },
  ratioColumn(({ limit }) => limit),
];

const plainColumns: readonly FigureColumn[] = [
  ...leadingColumns,
  medianColumn,
  { title: "compared with", cell: ({ limit }) => limit?.what ?? "" },
  ...comparisonColumns("its median", ({ limit }) => limit),
];

function phaseColumns(figures: readonly Figure[]): FigureColumn[] {
  const names = new Set(figures.flatMap(({ phases }) => Object.keys(phases ?? {})));
  const phaseColumn = (name: string): FigureColumn => ({
    title: `${name}, ms`,
    align: "right",
    cell: ({ phases }) => number(phases?.[name] ?? 0),
  });
  return [...leadingColumns, ...[...names].map(phaseColumn)];
}

interface Section {
  readonly title: string;
  readonly columns: readonly FigureColumn[];
}

/** Sections of the report, by the scenario of their figures. */
const sections: Readonly<Record<string, Section>> = {
  transitions: { title: "Sleep and wake-up by size", columns: transitionColumns },
  counts: {
    title: "Cost of a segment by the number of segments (2 MiB each, level 2)",
    columns: countColumns,
  },
  latency: { title: "One segment", columns: plainColumns },
  "first sleep": { title: "First sleep after `prepare`", columns: plainColumns },
  "modelled first sleep": {
    title: "First sleep without `prepare`, with the timing model",
    columns: plainColumns,
  },
  "first token": {
    title: "The first token after a wake-up, layer by layer, with the timing model",
    columns: transitionColumns,
  },
  loading: { title: "Loading a checkpoint", columns: plainColumns },
  "event loop": { title: "Event loop", columns: plainColumns },
  "host memory": { title: "Host memory of a cold level-1 sleep", columns: plainColumns },
  preload: { title: "Calls under the library of `camem run`", columns: plainColumns },
  proxy: { title: "Answers through the proxy of `camem run`", columns: plainColumns },
  runtimes: { title: "The same work on Bun and on Deno", columns: plainColumns },
  pools: { title: "Device memory of Qwen2.5-0.5B-Instruct's tensors", columns: plainColumns },
};

const isOnModels = ({ scenario }: Figure) => scenario === "models";
const modelsPrefix = "models: ";

/** A duration for people: milliseconds below a second. */
const duration = (ms: number) => (ms < 1000 ? `${number(ms)} ms` : `${number(ms / 1000)} s`);

/** The figures of one model in segments of one size on one device. */
type ModelRow = readonly [Figure, ...Figure[]];

function modelColumn(operation: string, part: "camem" | "peers", title: string): Column<ModelRow> {
  const cell = (row: ModelRow) => {
    const figure = row.find((each) => each.operation === operation);
    const statistic = part === "camem" ? figure?.value : figure?.peers?.value;
    if (figure === undefined || statistic === undefined) return "";
    return figure.unit === "ms" ? duration(statistic.median) : amount(statistic.median, figure.unit);
  };
  return { title, align: "right", cell };
}

const modelColumns: readonly Column<ModelRow>[] = [
  { title: "model, device", cell: ([figure]) => figure.case },
  {
    title: "segments",
    align: "right",
    cell: ([{ sizeBytes, segments }]) =>
      `${segments.toLocaleString("en")} × ${formatSize(sizeBytes / segments)}`,
  },
  modelColumn("sleep after prepare", "camem", "sleep after `prepare`"),
  modelColumn("first sleep", "camem", "first sleep"),
  modelColumn("first sleep", "peers", "peers"),
  modelColumn("wake-up", "camem", "wake-up"),
  modelColumn("wake-up", "peers", "peers"),
  modelColumn("first token", "camem", "first token"),
  modelColumn("first token", "peers", "peers"),
  modelColumn("host memory", "camem", "host memory"),
  modelColumn("host memory", "peers", "peers"),
];

const modelsExplanation = `
Weights in bf16, at level 1. "Peers" is the algorithm of vLLM and vLLM-Ascend, in C and in the same run: for each
segment it page-locks, copies, waits and unmaps; on the way back it maps, copies and waits. PyTorch may keep the
peers' host memory for a later sleep, which then page-locks nothing. The time to the first token includes the
wake-up. A layer computes by copying as many bytes as it has within the device: under camem as soon as it is back,
under the peers after the whole wake-up.`.trim();

/** What a user of a model waits for and pays. */
export function modelsTable({ figures, notes }: Results): string {
  const byRow = Map.groupBy(figures.filter(isOnModels), (figure) => `${figure.case} ${figure.segments}`);
  const rows = [...byRow.values()].map((row): ModelRow => row as [Figure, ...Figure[]]);
  const own = notes.filter((note) => note.startsWith(modelsPrefix));
  const list = own.map((note) => `- ${note.slice(modelsPrefix.length)}`).join("\n");
  return [modelsExplanation, table(modelColumns, rows), list].filter((part) => part !== "").join("\n\n");
}

const explanation = `
Each figure is a median over rounds. Figure and limit alternate within a round, and "ratio" is the median of
the rounds' ratios, figure to limit. The limit of a copy is a C loop over the same device memory with as many
threads. The limit of mapping and unmapping is a C loop of the same AscendCL calls. The limit of a wake-up
from a file is a C loop that reads it into page-locked memory and copies. The peers' algorithm blocks, one
segment after the other: page-lock host memory, copy, unmap, free. Phase "starting" lasts until the shim's
thread runs the plan. Phase "outside" is the time before the shim has the plan and after the plan has ended.`.trim();

/** The sections of `latest.md`. */
export function tables({ figures, notes }: Results): string {
  const parts = Object.entries(sections).map(([scenario, { title, columns }]) => {
    const own = figures.filter((figure) => figure.scenario === scenario);
    return `## ${title}\n\n${table(columns, own)}`;
  });
  const withPhases = figures.filter(({ phases }) => phases !== undefined);
  parts.push(`## Phases\n\n${table(phaseColumns(withPhases), withPhases)}`);
  const others = notes.filter((note) => !note.startsWith(modelsPrefix));
  if (others.length > 0) parts.push(`## Notes\n\n${others.map((note) => `- ${note}`).join("\n")}`);
  return parts.join("\n\n");
}

const worseColumns: readonly Column<ComparedFigure>[] = [
  { title: "scenario", cell: ({ figure }) => figure.scenario },
  { title: "case", cell: ({ figure }) => figure.case },
  { title: "operation", cell: ({ figure }) => figure.operation },
  { title: "size", align: "right", cell: ({ figure }) => formatSize(figure.sizeBytes) },
  { title: "segments", align: "right", cell: ({ figure }) => String(figure.segments) },
  { title: "unit", cell: ({ figure, reference }) => (reference ? `× ${reference}` : figure.unit) },
  { title: "before", align: "right", cell: ({ before }) => number(before.median) },
  { title: "p25 to p75", cell: ({ before }) => spread(before) },
  { title: "now", align: "right", cell: ({ now }) => number(now.median) },
  { title: "p25 to p75", cell: ({ now }) => spread(now) },
  { title: "factor", align: "right", cell: ({ factor }) => `${number(factor)} ×` },
];

export function worseTable(figures: readonly ComparedFigure[]): string {
  return table(worseColumns, figures);
}

/** Device, machine, models and targets. */
export function summary(results: Results): string {
  const { device, machine, quick, targets } = results;
  const scale = quick ? "quick: smaller sizes and fewer rounds than the targets are for\n" : "";
  const run = `${describeDevice(device)}\n${describeMachine(machine)}\n${scale}`;
  return `${run}\n${modelsTable(results)}\n\n${table(targetColumns, targets)}`;
}

/** The first sections of `latest.md`, which `docs/performance.md` quotes. */
export function quotedSections(results: Results): string {
  const targets = table(targetColumns, results.targets);
  return `## Models\n\n${modelsTable(results)}\n\n## Targets\n\n${targets}`;
}

export function markdown(results: Results, charts: readonly string[]): string {
  const images = charts.map((name) => `![${name.replace(".svg", "").replaceAll("-", " ")}](${name})`);
  const [device, machine] = [describeDevice(results.device), describeMachine(results.machine)];
  const run = `${results.quick ? "quick" : "full"} run of ${Math.round(results.durationSeconds)} s`;
  return [
    "# Benchmark",
    `${results.date.slice(0, 10)}, ${run}; ${device}; ${machine}.`,
    quotedSections(results),
    `## Method\n\n${explanation}`,
    images.join("\n\n"),
    tables(results),
    "",
  ].join("\n\n");
}
