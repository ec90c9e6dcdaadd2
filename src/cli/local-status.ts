/** `camem status` of engines in other processes of this machine. */

import { formatSize } from "../options/sizes.ts";
import { type EngineOverview, listEngines, type UnreachableEngine } from "../remote/engines.ts";
import type { EngineSegmentStatus } from "../remote/index.ts";
import { UsageError } from "./command.ts";
import { findEngine, isReachable, refuseServerOptions, withEngine } from "./local-engine.ts";

/** @throws UsageError, or CommandFailure where `target` is no engine */
export async function printLocalStatus(
  target: string | undefined,
  values: Readonly<Record<string, unknown>>,
): Promise<number> {
  refuseServerOptions(values, "status");
  const json = values["json"] === true;
  if (values["segments"] === true) {
    const segments = await withEngine(target ?? onlyEngine(), async (allocator) => allocator.segments());
    console.log(json ? JSON.stringify({ segments }, null, 2) : tableOf(segments));
    return 0;
  }
  const engines = target === undefined ? listEngines() : [findEngine(target)];
  if (json) console.log(JSON.stringify({ engines: engines.map(forJson) }, null, 2));
  else console.log(engines.length === 0 ? "no engine runs on this machine" : engines.map(textOf).join("\n"));
  return 0;
}

/** The one engine of this machine: with several, the user has to say which. */
function onlyEngine(): string {
  const [engine, ...others] = listEngines();
  if (engine !== undefined && others.length === 0) return engine.socket;
  throw new UsageError("say which engine: `camem status` lists them");
}

function forJson(engine: EngineOverview | UnreachableEngine): object {
  if (isReachable(engine)) return engine;
  const { socket, pid, error } = engine;
  return { socket, pid, error: { code: error.code, message: error.message } };
}

function textOf(engine: EngineOverview | UnreachableEngine): string {
  if (!isReachable(engine)) return `process ${engine.pid}: ${engine.error.message}`;
  const { status, state, devices, socket } = engine;
  const waiting = status.waitingCalls > 0 ? `; ${status.waitingCalls} calls wait` : "";
  const lines = [
    `${status.name}: ${state}${waiting}; process ${status.pid}, ${socket}`,
    ...devices.map(
      ({ device, mappedBytes, asleepBytes, freeBytes }) =>
        `  device ${device}: ${formatSize(mappedBytes)} on the device, ${formatSize(asleepBytes)} asleep; ${formatSize(freeBytes)} free`,
    ),
  ];
  if (status.pinnedSegments > 0)
    lines.push(
      `  cannot sleep: ${formatSize(status.pinnedBytes)} in ${status.pinnedSegments} pieces; see --segments`,
    );
  if (status.ownWakeUpFailure !== null) lines.push(`  could not wake by itself: ${status.ownWakeUpFailure}`);
  return [...lines, ...status.bypasses.map((bypass) => `  ${bypass}`)].join("\n");
}

const columns = ["address", "device", "size", "allocations", "state", "written", "rule"] as const;

function tableOf(segments: readonly EngineSegmentStatus[]): string {
  const rows = segments.map((segment) => [
    `0x${segment.address.toString(16)}`,
    String(segment.device),
    formatSize(segment.sizeBytes),
    String(segment.allocations),
    segment.pinned === null ? (segment.state ?? "freed") : `cannot sleep: ${segment.pinned}`,
    segment.written.join("+") || "none",
    segment.rule ?? "none: offload",
  ]);
  const lines = [[...columns], ...rows];
  const widths = columns.map((_, column) => Math.max(...lines.map((row) => row[column]?.length ?? 0)));
  return lines
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
