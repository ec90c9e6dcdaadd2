/** The results as tables for people: Markdown that is also what the terminal shows. */

import { formatSize } from "../src/options/sizes.ts";
import type { Comparison, Device, Figure, Machine, ReachRow, Results, Statistic } from "./schema.ts";

/** Three significant digits, which is more than the noise leaves. */
function number(value: number): string {
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}

function amount(value: number, unit: Figure["unit"]): string {
  return unit === "bytes" ? formatSize(Math.round(value)) : `${number(value)} ${unit}`;
}

const spread = ({ p25, p75 }: Statistic) => `${number(p25)} to ${number(p75)}`;

type Align = "left" | "right";

/** Columns are padded, so that the source reads as well as the rendering. */
function table(head: readonly (readonly [string, Align])[], rows: readonly (readonly string[])[]): string {
  const widths = head.map(([title], column) =>
    Math.max(3, title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const pad = (text: string, column: number) =>
    head[column]?.[1] === "right" ? text.padStart(widths[column] ?? 0) : text.padEnd(widths[column] ?? 0);
  const line = (cells: readonly string[]) => `| ${cells.map(pad).join(" | ")} |`;
  const rule = head.map(([, align], column) => {
    const dashes = "-".repeat((widths[column] ?? 0) - (align === "right" ? 1 : 0));
    return align === "right" ? `${dashes}:` : dashes;
  });
  return [line(head.map(([title]) => title)), line(rule), ...rows.map(line)].join("\n");
}

export function describeDevice({ backend, reason, soc, library, timingModel }: Device): string {
  const kind = backend === "ascend" ? "an NPU" : "the emulator, not an NPU";
  const model = timingModel ? "; times of copies and calls are those of its timing model" : "";
  return `measured on: ${kind} (${reason}): ${soc}, ${library}${model}`;
}

export function describeMachine({ cpu, cores, memoryBytes, kernel, bun }: Machine): string {
  return `machine: ${cpu}, ${cores} cores, ${formatSize(memoryBytes)} of memory, Linux ${kernel}, Bun ${bun}`;
}

function reachTable(rows: readonly ReachRow[]): string {
  return table(
    [
      ["figure", "left"],
      ["measured", "left"],
      ["reach", "left"],
      ["median", "right"],
      ["p25 to p75", "left"],
      ["reached", "left"],
    ],
    rows.map(({ figure, measured, reach, value, unit, passed }) => [
      figure,
      measured,
      reach,
      `${number(value.median)} ${unit}`,
      spread(value),
      passed ? "yes" : "no",
    ]),
  );
}

function comparisonCells(comparison: Comparison | undefined, unit: Figure["unit"]): string[] {
  if (comparison === undefined) return ["", ""];
  return [amount(comparison.value.median, unit), `${number(comparison.ratio.median)} ×`];
}

const gibPerSecond = (sizeBytes: number, ms: number) => number(sizeBytes / 2 ** 30 / (ms / 1000));

function transitionTable(figures: readonly Figure[]): string {
  return table(
    [
      ["case", "left"],
      ["operation", "left"],
      ["size", "right"],
      ["segments", "right"],
      ["median", "right"],
      ["p25 to p75", "left"],
      ["GiB/s", "right"],
      ["limit", "right"],
      ["of it", "right"],
      ["peers", "right"],
      ["of it", "right"],
    ],
    figures.map((figure) => [
      figure.case,
      figure.operation,
      formatSize(figure.sizeBytes),
      String(figure.segments),
      amount(figure.value.median, figure.unit),
      spread(figure.value),
      gibPerSecond(figure.sizeBytes, figure.value.median),
      ...comparisonCells(figure.limit, figure.unit),
      ...comparisonCells(figure.peers, figure.unit),
    ]),
  );
}

const perSegment = (ms: number, segments: number) => `${number((ms * 1000) / segments)} µs`;

function countTable(figures: readonly Figure[]): string {
  return table(
    [
      ["operation", "left"],
      ["segments", "right"],
      ["median", "right"],
      ["per segment", "right"],
      ["C loop, per segment", "right"],
      ["of it", "right"],
    ],
    figures.map(({ operation, segments, value, unit, limit }) => [
      operation,
      segments.toLocaleString("en"),
      amount(value.median, unit),
      perSegment(value.median, segments),
      limit ? perSegment(limit.value.median, segments) : "",
      limit ? `${number(limit.ratio.median)} ×` : "",
    ]),
  );
}

function plainTable(figures: readonly Figure[]): string {
  return table(
    [
      ["case", "left"],
      ["operation", "left"],
      ["size", "right"],
      ["segments", "right"],
      ["median", "right"],
      ["compared with", "left"],
      ["that", "right"],
      ["of it", "right"],
    ],
    figures.map((figure) => [
      figure.case,
      figure.operation,
      formatSize(figure.sizeBytes),
      String(figure.segments),
      amount(figure.value.median, figure.unit),
      figure.limit?.what ?? "",
      ...comparisonCells(figure.limit, figure.unit),
    ]),
  );
}

function phaseTable(figures: readonly Figure[]): string {
  const names = [...new Set(figures.flatMap(({ phases }) => Object.keys(phases ?? {})))];
  return table(
    [
      ["case", "left"],
      ["operation", "left"],
      ["size", "right"],
      ["segments", "right"],
      ...names.map((name) => [`${name}, ms`, "right"] as const),
    ],
    figures.map((figure) => [
      figure.case,
      figure.operation,
      formatSize(figure.sizeBytes),
      figure.segments.toLocaleString("en"),
      ...names.map((name) => number(figure.phases?.[name] ?? 0)),
    ]),
  );
}

const titles: Readonly<Record<string, { title: string; render: (figures: readonly Figure[]) => string }>> = {
  transitions: { title: "Sleep and wake-up by size", render: transitionTable },
  counts: { title: "Cost of a segment by how many there are (2 MiB each, level 2)", render: countTable },
  latency: { title: "One segment", render: plainTable },
  "first sleep": { title: "First sleep after `prepare`", render: plainTable },
  "event loop": { title: "Event loop", render: plainTable },
  "host memory": { title: "Host memory of a cold level-1 sleep", render: plainTable },
  pools: { title: "Device memory of Qwen2.5-0.5B-Instruct's tensors", render: plainTable },
};

const explanations = `Medians of rounds in which figure and limit take turns; "of it" is the median of each round's ratio of times. The limit of
a copy is a C loop over the same device memory with as many threads; of unmapping and mapping, a C loop of the same AscendCL
calls; of a wake-up from a file, a C loop that reads it into page-locked memory and copies. The peers' algorithm is one
blocking sequence per segment: page-lock host memory, copy, unmap, free. "outside" is what passes before the shim has a plan
and after it has ended, "starting" until its thread runs it.`;

/** Headings and tables; `latest.md` without its title. */
export function tables(results: Results): string {
  const parts = Object.entries(titles).map(([scenario, { title, render }]) => {
    const figures = results.figures.filter((figure) => figure.scenario === scenario);
    return `## ${title}\n\n${render(figures)}`;
  });
  const withPhases = results.figures.filter(({ phases }) => phases !== undefined);
  parts.push(`## What the time goes to\n\n${phaseTable(withPhases)}`);
  if (results.notes.length > 0)
    parts.push(`## Notes\n\n${results.notes.map((note) => `- ${note}`).join("\n")}`);
  return parts.join("\n\n");
}

/** The lines that come first, and the reach. */
export function summary({ device, machine, quick, reach }: Results): string {
  const scale = quick ? "quick: smaller sizes and fewer rounds than the reach is stated for\n" : "";
  return `${describeDevice(device)}\n${describeMachine(machine)}\n${scale}\n${reachTable(reach)}`;
}

export function markdown(results: Results, charts: readonly string[]): string {
  const images = charts.map((name) => `![${name.replace(".svg", "").replaceAll("-", " ")}](${name})`);
  const [device, machine] = [describeDevice(results.device), describeMachine(results.machine)];
  const when = `${results.date.slice(0, 10)}, ${results.quick ? "quick" : "full"} run of ${Math.round(results.durationSeconds)} s`;
  return [
    "# Benchmark",
    `${when}; ${device}; ${machine}.`,
    reachTable(results.reach),
    explanations,
    images.join("\n\n"),
    tables(results),
    "",
  ].join("\n\n");
}
