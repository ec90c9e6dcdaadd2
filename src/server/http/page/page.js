/**
 * The script of the page: shows what the server reports, and follows its events.
 *
 * @import { TagUsage } from "../../../memory/usage.ts"
 * @import { DeviceMemory } from "../../engine/results.ts"
 * @import { EngineEvent, EngineStatus, TransitionEndedEvent, TransitionStartedEvent } from "../../engine/events.ts"
 * @import { ModelActions } from "./model-view.js"
 */

import {
  forgetToken,
  hasToken,
  keepToken,
  RefusedError,
  readEvents,
  request,
  requestJson,
} from "./client.js";
import { element, find, updateViews } from "./dom.js";
import {
  formatBytes,
  formatDuration,
  formatReason,
  formatState,
  formatTime,
  formatTransition,
} from "./format.js";
import { DeviceView, sizesOf } from "./memory-views.js";
import { ModelView } from "./model-view.js";

/**
 * @typedef {{ status: EngineStatus, tags: Readonly<Record<string, TagUsage>> }} Engine
 * @typedef {{ pageLockedBytes: number }} Host
 * @typedef {{ engines: Record<string, Engine>, devices: DeviceMemory[], host?: Host }} Usage
 * @typedef {{ running: TransitionStartedEvent[], ended: TransitionEndedEvent[] }} Transitions
 */

const firstDelayMs = 500;
const longestDelayMs = 10_000;
const transitionLimit = 50;

const page = {
  access: find("access", HTMLFormElement),
  announcement: find("announcement", HTMLElement),
  connection: find("connection", HTMLElement),
  data: find("data", HTMLElement),
  deviceMemory: find("device-memory", HTMLElement),
  devices: find("devices", HTMLElement),
  error: find("error", HTMLElement),
  forget: find("forget", HTMLButtonElement),
  hostMemory: find("host-memory", HTMLElement),
  mode: find("mode", HTMLSelectElement),
  models: find("models", HTMLElement),
  modelsAwake: find("models-awake", HTMLElement),
  noTransitions: find("no-transitions", HTMLElement),
  token: find("token", HTMLInputElement),
  transitions: find("transitions", HTMLElement),
};

/** @type {Map<string, ModelView>} */
const models = new Map();
/** @type {Map<number, DeviceView>} */
const devices = new Map();
/** @type {Map<string, TransitionEndedEvent>} */
const ended = new Map();

/** @type {ModelActions} */
const actions = {
  sleep: (model, level) => requestJson("POST", "sleep", { model, mode: page.mode.value, level }),
  wakeUp: (model) => requestJson("POST", "wake_up", { model }),
  onStart: () => showError(""),
  onFailure: showFailure,
};

// ---- What the server reports

/** @param {readonly string[]} names */
function updateModels(names) {
  updateViews(models, page.models, names, (name) => new ModelView(name, actions));
}

/** @param {readonly number[]} numbers */
function updateDevices(numbers) {
  updateViews(devices, page.devices, numbers, (device) => new DeviceView(device));
}

/** @param {Usage} usage */
function showUsage(usage) {
  const tags = Object.values(usage.engines).flatMap((engine) => Object.values(engine.tags));
  const sums = tags.map((tag) => sizesOf(tag).reduce((sum, [, bytes]) => sum + bytes, 0));
  const fullBytes = Math.max(1, ...sums);
  updateModels(Object.keys(usage.engines));
  for (const [name, engine] of Object.entries(usage.engines)) {
    models.get(name)?.showStatus(engine.status);
    models.get(name)?.showTags(engine.tags, fullBytes);
  }
  showSummary(usage);
  updateDevices(usage.devices.map(({ device }) => device));
  for (const memory of usage.devices) devices.get(memory.device)?.show(memory);
  page.data.hidden = false;
}

/** @param {Usage} usage */
function showSummary({ engines, devices, host }) {
  const totalBytes = devices.reduce((sum, device) => sum + device.totalBytes, 0);
  const freeBytes = devices.reduce((sum, device) => sum + device.freeBytes, 0);
  const states = Object.values(engines).map(({ status }) => status.state);
  const awake = states.filter((state) => state === "awake").length;
  page.deviceMemory.textContent = `${formatBytes(totalBytes - freeBytes)} of ${formatBytes(totalBytes)}`;
  page.hostMemory.textContent = formatBytes(host?.pageLockedBytes ?? 0);
  page.modelsAwake.textContent = `${awake} of ${states.length}`;
}

/** @param {readonly TransitionEndedEvent[]} events */
function showTransitions(events) {
  for (const event of events) ended.set(JSON.stringify([event.engine, event.id, event.atMs]), event);
  const sorted = [...ended].sort(([, a], [, b]) => b.atMs - a.atMs);
  for (const [key] of sorted.splice(transitionLimit)) ended.delete(key);
  const longestMs = Math.max(1, ...sorted.map(([, event]) => event.durationMs));
  page.transitions.replaceChildren(...sorted.map(([, event]) => transitionItem(event, longestMs)));
  page.noTransitions.hidden = sorted.length > 0;
  page.transitions.hidden = sorted.length === 0;
}

/**
 * @param {TransitionEndedEvent} event
 * @param {number} longestMs
 */
function transitionItem(event, longestMs) {
  const { engine, atMs, durationMs, outcome, failure, reason } = event;
  const startedMs = atMs - durationMs;
  const length = element("div", { class: "length", "aria-hidden": "true" });
  length.style.width = `max(2px, ${(100 * durationMs) / longestMs}%)`;
  const cause = failure === null ? "" : ` (${failure.message})`;
  const name = `${engine}: ${formatTransition(event)}, by ${formatReason(reason)}${cause}`;
  return element(
    "li",
    {},
    element("time", { datetime: new Date(startedMs).toISOString() }, formatTime(startedMs)),
    element("span", { class: "what" }, name),
    element(
      "span",
      { class: "outcome", "data-outcome": outcome },
      `${outcome}, ${formatDuration(durationMs)}`,
    ),
    length,
  );
}

/** @param {string} text read out by screen readers */
function announce(text) {
  page.announcement.textContent = text;
}

/** @param {EngineEvent} event */
function showEvent(event) {
  const model = models.get(event.engine);
  if (event.type === "requests") return model?.showRequests(event.requests);
  if (event.type === "transition-started" || event.type === "transition-progress")
    return model?.showRunning(event);
  if (event.type === "state") {
    model?.showStatus(event.status);
    if (event.status.state !== event.previous)
      announce(`${event.engine} is ${formatState(event.status.state)}`);
  } else if (event.type === "transition-ended") {
    model?.hideRunning();
    showTransitions([event]);
    const duration = formatDuration(event.durationMs);
    announce(`${event.engine}: ${formatTransition(event)}: ${event.outcome} after ${duration}`);
  }
  refresh();
}

// ---- The connection

/** @type {AbortController | undefined} */
let connection;

let refreshing = false;
let refreshAgain = false;

/** Requests the usage. A call during a request makes it request once more afterwards. */
async function refresh() {
  refreshAgain = true;
  if (refreshing) return;
  refreshing = true;
  const current = connection;
  try {
    while (refreshAgain) {
      refreshAgain = false;
      const usage = await requestJson("GET", "camem/usage");
      // The user may have forgotten the token meanwhile.
      if (connection === current) showUsage(usage);
    }
  } catch (error) {
    if (connection === current) showFailure(error, "Usage");
  } finally {
    refreshing = false;
  }
}

/** @param {string} block */
function onBlock(block) {
  const match = /^event: (.*)\ndata: (.*)$/.exec(block);
  // Anything else is a heartbeat. Free memory may have changed without an event.
  if (match === null) return refresh();
  const data = JSON.parse(match[2] ?? "null");
  if (match[1] === "snapshot") showUsage(data);
  else showEvent(data);
}

/** @param {AbortController} connection */
async function connect(connection) {
  const response = await request("camem/events", { signal: connection.signal });
  /** @type {Transitions} */
  const transitions = await (await request("camem/transitions", { signal: connection.signal })).json();
  page.access.hidden = true;
  page.forget.hidden = !hasToken();
  page.connection.textContent = "Connected";
  showError("");
  for (const model of models.values()) model.hideRunning();
  showTransitions(transitions.ended);
  if (response.body !== null) await readEvents(response.body, connection, onBlock);
}

/** Follows the server until it refuses the token, and reconnects whenever the connection ends. */
async function follow() {
  connection?.abort();
  for (let delayMs = firstDelayMs; ; delayMs = Math.min(2 * delayMs, longestDelayMs)) {
    const current = new AbortController();
    connection = current;
    try {
      await connect(current);
      delayMs = firstDelayMs;
    } catch (error) {
      if (connection !== current) return;
      if (error instanceof RefusedError) return showFailure(error, "Token");
    }
    if (connection !== current) return;
    page.connection.textContent = "Disconnected; this page may be out of date. Reconnecting";
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    if (connection !== current) return;
  }
}

// ---- Errors and the token

/** @param {string} text */
function showError(text) {
  page.error.textContent = text;
}

/**
 * @param {unknown} error
 * @param {string} label
 */
function showFailure(error, label) {
  if (error instanceof RefusedError) {
    askForToken();
    showError("The server refused this token. Check it and try again.");
  } else {
    showError(`${label}: ${error instanceof Error ? error.message : error}`);
  }
}

/** Removes everything from the page that needs a token. */
function askForToken() {
  connection?.abort();
  connection = undefined;
  forgetToken();
  ended.clear();
  updateModels([]);
  updateDevices([]);
  showTransitions([]);
  announce("");
  page.data.hidden = true;
  page.forget.hidden = true;
  page.access.hidden = false;
  page.connection.textContent = "Not connected";
  page.token.value = "";
  page.token.focus();
}

page.access.addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(page.token.value.trim());
  page.token.value = "";
  showError("");
  follow();
});
page.forget.addEventListener("click", () => {
  askForToken();
  showError("");
});

const needsToken = document.documentElement.dataset["access"] === "token";
if (needsToken && !hasToken()) askForToken();
else follow();
