/**
 * The page's script, as browsers run it. Names of models and tags are whatever somebody called them: they become text, never
 * markup.
 *
 * @import { EngineEvent, EngineStatus, RequestCounts, TransitionEndedEvent, TransitionProgressEvent, TransitionStartedEvent } from "../../engine/events.ts"
 * @import { TagUsage } from "../../../allocator.ts"
 * @import { DeviceMemory } from "../../engine/controller.ts"
 */

/**
 * @typedef {Readonly<Record<string, TagUsage>>} Tags
 * @typedef {{ status: EngineStatus, tags: Tags }} Engine
 * @typedef {{ engines: Record<string, Engine>, devices: DeviceMemory[] }} Usage
 * @typedef {{ running: TransitionStartedEvent[], ended: TransitionEndedEvent[] }} Transitions
 */

const tokenName = "camem-token";
const firstDelayMs = 500;
const longestDelayMs = 10_000;
/** The server shows that it lives every 15 seconds. */
const silenceMs = 60_000;
const transitionsAtMost = 50;

/** The properties of a tag's usage that are sizes, in the order of the bars. Older packages lack some. */
const kinds = ["mapped", "host", "spilled", "checkpoint", "discarded"];

/** @type {Readonly<Record<string, string>>} */
const askers = { operator: "an operator", idle: "idleness", pool: "the pool", request: "a request" };

// ---- What the page says

const byteUnits = ["B", "KiB", "MiB", "GiB", "TiB"];

/** @param {number} bytes */
function formatBytes(bytes) {
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < byteUnits.length - 1; unit++) value /= 1024;
  return `${Number(value.toFixed(value < 10 ? 2 : 1))} ${byteUnits[unit]}`;
}

/** @param {number} ms */
function formatDuration(ms) {
  if (ms < 1000) return `${Number(ms.toFixed(ms < 10 ? 1 : 0))} ms`;
  return `${(ms / 1000).toFixed(1)} s`;
}

/** @param {number} ms */
const formatTime = (ms) => new Date(ms).toLocaleTimeString([], { hourCycle: "h23" });

/** @param {{ operation: string, level: number | null, tags: readonly string[] | null }} transition */
function nameOf({ operation, level, tags }) {
  const what = operation === "sleep" ? `sleep, level ${level}` : "wake-up";
  return tags === null ? what : `${what}, only ${tags.join(", ")}`;
}

/** @param {EngineStatus} status */
function describe({ state, level, reason, sinceMs, sleepingTags, awaitingTags, paused, requests, failure }) {
  const parts = [`since ${formatTime(sinceMs)}`];
  if (level !== null) parts.push(`level ${level}`);
  if (reason !== null) parts.push(`asked for by ${askers[reason] ?? reason}`);
  if (sleepingTags.length > 0) parts.push(`asleep: ${sleepingTags.join(", ")}`);
  if (awaitingTags.length > 0) parts.push(`to be loaded: ${awaitingTags.join(", ")}`);
  if (paused && state !== "paused") parts.push("paused");
  parts.push(countRequests(requests));
  if (failure !== null) parts.push(failure.message);
  return parts.join(" · ");
}

/** @param {RequestCounts} requests */
function countRequests({ running, parked, waiting }) {
  return `requests: ${running} running, ${parked} halted, ${waiting} waiting`;
}

// ---- Elements

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Readonly<Record<string, string>>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

/**
 * @template {HTMLElement} Kind
 * @param {string} id
 * @param {new () => Kind} kind
 * @returns {Kind}
 */
function find(id, kind) {
  const found = document.getElementById(id);
  if (found instanceof kind) return found;
  throw new Error(`the page has no ${kind.name} named ${id}`);
}

let idCount = 0;
const newId = () => `id-${++idCount}`;

const page = {
  access: find("access", HTMLFormElement),
  announcement: find("announcement", HTMLElement),
  connection: find("connection", HTMLElement),
  data: find("data", HTMLElement),
  devices: find("devices", HTMLElement),
  error: find("error", HTMLElement),
  forget: find("forget", HTMLButtonElement),
  mode: find("mode", HTMLSelectElement),
  models: find("models", HTMLElement),
  noTransitions: find("no-transitions", HTMLElement),
  token: find("token", HTMLInputElement),
  transitions: find("transitions", HTMLElement),
};

/** @param {string} text */
function announce(text) {
  page.announcement.textContent = text;
}

/** A bar of parts, with the same numbers as text below it. */
class Bar {
  #meter = element("div", { class: "bar", role: "meter", "aria-valuemin": "0" });
  #figures = element("dl", { class: "figures" });
  element = element("div", {}, this.#meter, this.#figures);

  /** @param {string} labelId */
  constructor(labelId) {
    this.#meter.setAttribute("aria-labelledby", labelId);
  }

  /**
   * @param {readonly (readonly [kind: string, bytes: number])[]} parts the first is what the meter tells
   * @param {number} fullBytes
   * @param {readonly string[]} [drawn] the kinds that have a place in the bar; all by default
   */
  show(parts, fullBytes, drawn = parts.map(([kind]) => kind)) {
    const [first] = parts;
    this.#meter.setAttribute("aria-valuemax", String(fullBytes));
    this.#meter.setAttribute("aria-valuenow", String(first?.[1] ?? 0));
    const text = parts.map(([kind, bytes]) => `${formatBytes(bytes)} ${kind}`).join(", ");
    this.#meter.setAttribute("aria-valuetext", text);
    for (const [kind, bytes] of parts) {
      const figure = this.#figure(kind);
      figure.value = String(bytes);
      figure.textContent = formatBytes(bytes);
      if (drawn.includes(kind)) this.#part(kind).style.width = `${(100 * bytes) / Math.max(fullBytes, 1)}%`;
    }
  }

  /** @param {string} kind */
  #part(kind) {
    const found = this.#meter.querySelector(`.${kind}`);
    if (found instanceof HTMLElement) return found;
    const part = element("div", { class: `part ${kind}` });
    this.#meter.append(part);
    return part;
  }

  /** @param {string} kind */
  #figure(kind) {
    const found = this.#figures.querySelector(`data[data-kind="${kind}"]`);
    if (found instanceof HTMLDataElement) return found;
    const figure = element("data", { "data-kind": kind });
    const entry = element("div", {}, element("dt", { class: kind }, kind), element("dd", {}, figure));
    this.#figures.append(entry);
    return figure;
  }
}

class DeviceView {
  #titleId = newId();
  #bar = new Bar(this.#titleId);
  #total = element("span", { class: "details" });
  /** @type {HTMLElement} */
  element;

  /** @param {number} device */
  constructor(device) {
    const title = element("h3", { id: this.#titleId }, `Device ${device}`);
    this.element = element("li", { class: "device" }, title, this.#bar.element, this.#total);
  }

  /** @param {DeviceMemory} memory */
  show({ freeBytes, totalBytes }) {
    const parts = /** @type {const} */ ([
      ["used", totalBytes - freeBytes],
      ["free", freeBytes],
    ]);
    this.#bar.show(parts, totalBytes, ["used"]);
    this.#total.textContent = `${formatBytes(totalBytes)} in all, of all processes`;
  }
}

class TagView {
  #titleId = newId();
  #bar = new Bar(this.#titleId);
  #state = element("span", { class: "details" });
  /** @type {HTMLElement} */
  element;

  /** @param {string} tag */
  constructor(tag) {
    const title = element("span", { id: this.#titleId }, tag);
    this.element = element("li", { class: "tag" }, title, " ", this.#state, this.#bar.element);
  }

  /**
   * @param {TagUsage} usage
   * @param {number} fullBytes of the largest tag on the page: the bars are of one scale
   */
  show(usage, fullBytes) {
    this.#state.textContent = usage.state;
    this.#bar.show(sizesOf(usage), fullBytes);
  }
}

/**
 * @param {TagUsage} usage
 * @returns {[kind: string, bytes: number][]}
 */
function sizesOf(usage) {
  const sizes = new Map(Object.entries(usage));
  return kinds.flatMap((kind) => {
    const bytes = sizes.get(`${kind}Bytes`);
    return typeof bytes === "number" ? [[kind, bytes]] : [];
  });
}

/** Takes away what is no more, and makes what is new, without touching the rest: the focus stays where it is.
 *
 * @template Key
 * @template {{ element: HTMLElement }} View
 * @param {Map<Key, View>} views
 * @param {HTMLElement} parent
 * @param {readonly Key[]} keys
 * @param {(key: Key) => View} make
 */
function keep(views, parent, keys, make) {
  for (const [key, view] of views) {
    if (keys.includes(key)) continue;
    view.element.remove();
    views.delete(key);
  }
  for (const key of keys) {
    if (views.has(key)) continue;
    const view = make(key);
    views.set(key, view);
    parent.append(view.element);
  }
}

class ModelView {
  #name;
  #state = element("span", { class: "state" });
  #details = element("p", { class: "details" });
  #tagList = element("ul");
  #phase = element("p", { class: "details", id: newId() });
  #progress = element("progress", { "aria-labelledby": this.#phase.id });
  #running = element("div", { class: "running", hidden: "" }, this.#phase, this.#progress);
  /** @type {Map<string, TagView>} */
  #tags = new Map();
  /** @type {EngineStatus | undefined} */
  #status;
  /** @type {HTMLElement} */
  element;

  /** @param {string} name */
  constructor(name) {
    this.#name = name;
    const titleId = newId();
    this.element = element(
      "article",
      { class: "model", "aria-labelledby": titleId },
      element("header", {}, element("h3", { id: titleId }, name), this.#state),
      this.#details,
      this.#tagList,
      this.#running,
      element(
        "div",
        { class: "actions" },
        this.#button("Sleep, level 1", () => ask("POST", "sleep", { ...this.#sleepQuery, level: "1" })),
        this.#button("Sleep, level 2", () => ask("POST", "sleep", { ...this.#sleepQuery, level: "2" })),
        this.#button("Wake up", () => ask("POST", "wake_up", { model: name })),
      ),
    );
  }

  get #sleepQuery() {
    return { model: this.#name, mode: page.mode.value };
  }

  /**
   * @param {string} label
   * @param {() => Promise<unknown>} run
   */
  #button(label, run) {
    const button = element("button", { type: "button", "aria-label": `${label}: ${this.#name}` }, label);
    // Not `disabled`, as that takes the focus away.
    button.addEventListener("click", async () => {
      if (button.getAttribute("aria-disabled") === "true") return;
      button.setAttribute("aria-disabled", "true");
      showError("");
      try {
        await run();
      } catch (error) {
        takeFailure(error, `${label}: ${this.#name}`);
      } finally {
        button.removeAttribute("aria-disabled");
      }
    });
    return button;
  }

  /** @param {EngineStatus} status */
  showStatus(status) {
    this.#status = status;
    this.#state.textContent = status.state.replaceAll("-", " ");
    this.#state.dataset["state"] = status.state;
    this.#details.textContent = describe(status);
  }

  /** @param {RequestCounts} requests */
  showRequests(requests) {
    if (this.#status !== undefined) this.showStatus({ ...this.#status, requests });
  }

  /**
   * @param {Tags} tags
   * @param {number} fullBytes
   */
  showTags(tags, fullBytes) {
    keep(this.#tags, this.#tagList, Object.keys(tags), (tag) => new TagView(tag));
    for (const [tag, usage] of Object.entries(tags)) this.#tags.get(tag)?.show(usage, fullBytes);
  }

  /** @param {TransitionStartedEvent | TransitionProgressEvent} event */
  showRunning(event) {
    this.#running.hidden = false;
    if (event.type === "transition-started") {
      this.#phase.textContent = `${nameOf(event)}: begun`;
      this.#progress.removeAttribute("value");
      return;
    }
    const { phase, bytesDone, bytesTotal } = event.progress;
    const bytes = bytesTotal > 0 ? `, ${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)} copied` : "";
    this.#phase.textContent = `${nameOf(event)}: ${phase}${bytes}`;
    if (bytesTotal === 0) return this.#progress.removeAttribute("value");
    this.#progress.max = bytesTotal;
    this.#progress.value = bytesDone;
  }

  hideRunning() {
    this.#running.hidden = true;
  }
}

/** @type {Map<string, ModelView>} */
const models = new Map();
/** @type {Map<number, DeviceView>} */
const devices = new Map();
/** @type {Map<string, TransitionEndedEvent>} */
const ended = new Map();

/** @param {Usage} usage */
function showUsage(usage) {
  const tags = Object.values(usage.engines).flatMap((engine) => Object.values(engine.tags));
  const sums = tags.map((tag) => sizesOf(tag).reduce((sum, [, bytes]) => sum + bytes, 0));
  const fullBytes = Math.max(1, ...sums);
  keep(models, page.models, Object.keys(usage.engines), (name) => new ModelView(name));
  for (const [name, engine] of Object.entries(usage.engines)) {
    models.get(name)?.showStatus(engine.status);
    models.get(name)?.showTags(engine.tags, fullBytes);
  }
  const numbers = usage.devices.map(({ device }) => device);
  keep(devices, page.devices, numbers, (device) => new DeviceView(device));
  for (const memory of usage.devices) devices.get(memory.device)?.show(memory);
  page.data.hidden = false;
}

/** @param {readonly TransitionEndedEvent[]} events */
function showTransitions(events) {
  for (const event of events) ended.set(JSON.stringify([event.engine, event.id, event.atMs]), event);
  const sorted = [...ended].sort(([, a], [, b]) => b.atMs - a.atMs);
  for (const [key] of sorted.splice(transitionsAtMost)) ended.delete(key);
  const longestMs = Math.max(1, ...sorted.map(([, event]) => event.durationMs));
  page.transitions.replaceChildren(...sorted.map(([, event]) => transitionItem(event, longestMs)));
  page.noTransitions.hidden = sorted.length > 0;
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
  const why = failure === null ? "" : ` (${failure.message})`;
  return element(
    "li",
    {},
    element("time", { datetime: new Date(startedMs).toISOString() }, formatTime(startedMs)),
    element("span", { class: "what" }, `${engine}: ${nameOf(event)}, by ${askers[reason] ?? reason}${why}`),
    element(
      "span",
      { class: "outcome", "data-outcome": outcome },
      `${outcome}, ${formatDuration(durationMs)}`,
    ),
    length,
  );
}

// ---- The server

class RefusedError extends Error {}

const base = new URL("../..", import.meta.url);

/**
 * @param {string} path
 * @param {RequestInit} [options]
 */
async function request(path, options = {}) {
  const token = sessionStorage.getItem(tokenName);
  const headers = token === null ? {} : { authorization: `Bearer ${token}` };
  const response = await fetch(new URL(path, base), { ...options, headers, cache: "no-store" });
  if (response.ok) return response;
  const message = await messageOf(response);
  throw response.status === 401 ? new RefusedError(message) : new Error(message);
}

/** @param {Response} response */
async function messageOf(response) {
  const text = await response.text();
  try {
    return String(JSON.parse(text).error.message);
  } catch {
    return `the server answered ${response.status}`;
  }
}

/**
 * @param {"GET" | "POST"} method
 * @param {string} path
 * @param {Readonly<Record<string, string>>} [query]
 */
async function ask(method, path, query = {}) {
  const response = await request(`${path}?${new URLSearchParams(query)}`, { method });
  return response.json();
}

/** @type {AbortController | undefined} */
let connection;

let refreshing = false;
let refreshAgain = false;

/** Asks for the usage; while it is being asked for, once more afterwards. */
async function refresh() {
  refreshAgain = true;
  if (refreshing) return;
  refreshing = true;
  const asked = connection;
  try {
    while (refreshAgain) {
      refreshAgain = false;
      const usage = await ask("GET", "camem/usage");
      // The token may have been given up meanwhile.
      if (connection === asked) showUsage(usage);
    }
  } catch (error) {
    if (connection === asked) takeFailure(error, "Usage");
  } finally {
    refreshing = false;
  }
}

/** @param {EngineEvent} event */
function take(event) {
  const model = models.get(event.engine);
  if (event.type === "requests") return model?.showRequests(event.requests);
  if (event.type === "transition-started" || event.type === "transition-progress")
    return model?.showRunning(event);
  if (event.type === "state") {
    model?.showStatus(event.status);
    if (event.status.state !== event.previous)
      announce(`${event.engine} is ${event.status.state.replaceAll("-", " ")}`);
  } else if (event.type === "transition-ended") {
    model?.hideRunning();
    showTransitions([event]);
    announce(`${event.engine}: ${nameOf(event)}: ${event.outcome} after ${formatDuration(event.durationMs)}`);
  }
  refresh();
}

/** @param {string} block */
function takeBlock(block) {
  const match = /^event: (.*)\ndata: (.*)$/.exec(block);
  // Anything else is the server's sign of life: free memory may have changed without any event of ours.
  if (match === null) return refresh();
  const data = JSON.parse(match[2] ?? "null");
  if (match[1] === "snapshot") showUsage(data);
  else take(data);
}

/**
 * `EventSource` cannot send the token.
 *
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} body
 * @param {AbortController} connection
 */
async function readEvents(body, connection) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const timer = setTimeout(() => connection.abort(), silenceMs);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop() ?? "";
    blocks.forEach(takeBlock);
  }
}

/** @param {AbortController} connection */
async function connect(connection) {
  const response = await request("camem/events", { signal: connection.signal });
  /** @type {Transitions} */
  const transitions = await (await request("camem/transitions", { signal: connection.signal })).json();
  page.access.hidden = true;
  page.forget.hidden = sessionStorage.getItem(tokenName) === null;
  page.connection.textContent = "Connected";
  showError("");
  for (const model of models.values()) model.hideRunning();
  showTransitions(transitions.ended);
  if (response.body !== null) await readEvents(response.body, connection);
}

/** Follows the server until it refuses us, and comes back to it whenever it has gone. */
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
      if (error instanceof RefusedError) return takeFailure(error, "Token");
    }
    if (connection !== current) return;
    page.connection.textContent = "Disconnected; what you see may be out of date. Trying again";
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    if (connection !== current) return;
  }
}

// ---- The token

/** @param {string} text */
function showError(text) {
  page.error.textContent = text;
}

/**
 * @param {unknown} error
 * @param {string} what
 */
function takeFailure(error, what) {
  if (error instanceof RefusedError) {
    askForToken();
    showError("The server refused this token. Check it and try again.");
  } else {
    showError(`${what}: ${error instanceof Error ? error.message : error}`);
  }
}

/** Nothing that a token was needed for stays on the page. */
function askForToken() {
  connection?.abort();
  connection = undefined;
  sessionStorage.removeItem(tokenName);
  ended.clear();
  keep(models, page.models, [], (name) => new ModelView(name));
  keep(devices, page.devices, [], (device) => new DeviceView(device));
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
  sessionStorage.setItem(tokenName, page.token.value.trim());
  page.token.value = "";
  showError("");
  follow();
});
page.forget.addEventListener("click", () => {
  askForToken();
  showError("");
});

const asksForToken = document.documentElement.dataset["access"] === "token";
if (asksForToken && sessionStorage.getItem(tokenName) === null) askForToken();
else follow();
