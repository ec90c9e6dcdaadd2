/**
 * The texts of the page.
 *
 * @import { EngineStatus, RequestCounts } from "../../engine/events.ts"
 */

const byteUnits = ["B", "KiB", "MiB", "GiB", "TiB"];

/** @param {number} bytes */
export function formatBytes(bytes) {
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < byteUnits.length - 1; unit++) value /= 1024;
  return `${Number(value.toFixed(value < 10 ? 2 : 1))} ${byteUnits[unit]}`;
}

/** @param {number} ms */
export function formatDuration(ms) {
  if (ms < 1000) return `${Number(ms.toFixed(ms < 10 ? 1 : 0))} ms`;
  return `${(ms / 1000).toFixed(1)} s`;
}

/** @param {number} ms */
export const formatTime = (ms) => new Date(ms).toLocaleTimeString([], { hourCycle: "h23" });

/** @param {string} state */
export const formatState = (state) => state.replaceAll("-", " ");

/** @type {Readonly<Record<string, string>>} */
const reasons = { operator: "an operator", idle: "idleness", pool: "the pool", request: "a request" };

/** @param {string} reason */
export const formatReason = (reason) => reasons[reason] ?? reason;

/** @param {{ operation: string, level: number | null, tags: readonly string[] | null }} transition */
export function formatTransition({ operation, level, tags }) {
  const name = operation === "sleep" ? `sleep at level ${level}` : "wake-up";
  return tags === null ? name : `${name}, only ${tags.join(", ")}`;
}

/** @param {EngineStatus} status */
export function formatStatus(status) {
  const { state, level, reason, sinceMs, sleepingTags, awaitingTags, paused, requests, failure } = status;
  const depth = level === null ? "" : ` at level ${level}`;
  const cause = reason === null ? "" : `, by ${formatReason(reason)}`;
  const parts = [`Since ${formatTime(sinceMs)}${depth}${cause}`];
  if (sleepingTags.length > 0) parts.push(`Asleep: ${sleepingTags.join(", ")}`);
  if (awaitingTags.length > 0) parts.push(`Weights to load: ${awaitingTags.join(", ")}`);
  if (paused && state !== "paused") parts.push("Paused");
  parts.push(formatRequests(requests));
  if (failure !== null) parts.push(failure.message);
  return parts.join(". ");
}

/** @param {RequestCounts} requests */
function formatRequests({ running, parked, waiting }) {
  const counts = /** @type {const} */ ([
    [running, "running"],
    [parked, "halted"],
    [waiting, "waiting"],
  ]);
  const existing = counts.filter(([count]) => count > 0).map(([count, state]) => `${count} ${state}`);
  return existing.length === 0 ? "No requests" : `Requests: ${existing.join(", ")}`;
}
