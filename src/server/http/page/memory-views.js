/**
 * The memory of devices and tags.
 *
 * @import { TagUsage } from "../../../memory/usage.ts"
 * @import { DeviceMemory } from "../../engine/results.ts"
 */

import { element, newId } from "./dom.js";
import { formatBytes } from "./format.js";

/** The properties of a tag's usage that are sizes, in the order of the bars. Older packages lack some. */
const kinds = ["mapped", "host", "pageable", "spilled", "checkpoint", "discarded"];

/** @type {Readonly<Record<string, string>>} */
const kindTexts = {
  mapped: "on the device",
  host: "in host memory",
  pageable: "in pageable memory",
  spilled: "on disk",
  checkpoint: "in the checkpoint",
  discarded: "discarded",
};

/** @param {string} kind */
const textOf = (kind) => kindTexts[kind] ?? kind;

/** A bar of parts, with the same numbers as text below it. */
class Bar {
  #meter = element("div", { class: "bar", role: "meter", "aria-valuemin": "0" });
  #figures = element("dl", { class: "figures" });
  /** @type {Map<string, { entry: HTMLElement, figure: HTMLDataElement }>} */
  #figureOf = new Map();
  element = element("div", {}, this.#meter, this.#figures);

  /** @param {string} labelId */
  constructor(labelId) {
    this.#meter.setAttribute("aria-labelledby", labelId);
  }

  /**
   * @param {readonly (readonly [kind: string, bytes: number])[]} parts the first is the value of the meter
   * @param {number} fullBytes
   * @param {readonly string[]} [drawn] the kinds with a part in the bar; by default all
   */
  show(parts, fullBytes, drawn = parts.map(([kind]) => kind)) {
    const [first] = parts;
    this.#meter.setAttribute("aria-valuemax", String(fullBytes));
    this.#meter.setAttribute("aria-valuenow", String(first?.[1] ?? 0));
    const existing = parts.filter(([, bytes]) => bytes > 0);
    const text = existing.map(([kind, bytes]) => `${formatBytes(bytes)} ${textOf(kind)}`).join(", ");
    this.#meter.setAttribute("aria-valuetext", text || "empty");
    for (const [kind, bytes] of parts) {
      const { entry, figure } = this.#figure(kind);
      figure.value = String(bytes);
      figure.textContent = formatBytes(bytes);
      entry.hidden = bytes === 0;
      if (!drawn.includes(kind)) continue;
      const { style } = this.#part(kind);
      style.width = `${(100 * bytes) / Math.max(fullBytes, 1)}%`;
      // A few MiB beside many GiB would be thinner than a pixel.
      style.minWidth = bytes === 0 ? "0" : "4px";
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
    const found = this.#figureOf.get(kind);
    if (found !== undefined) return found;
    const figure = element("data", { "data-kind": kind });
    const term = element("dt", { class: kind }, textOf(kind));
    const entry = element("div", {}, term, element("dd", {}, figure));
    this.#figures.append(entry);
    const created = { entry, figure };
    this.#figureOf.set(kind, created);
    return created;
  }
}

export class DeviceView {
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
    this.#total.textContent = `${formatBytes(totalBytes)} in total, for all processes`;
  }
}

export class TagView {
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
   * @param {number} fullBytes of the largest tag on the page: all bars have the same scale
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
export function sizesOf(usage) {
  const sizes = new Map(Object.entries(usage));
  return kinds.flatMap((kind) => {
    const bytes = sizes.get(`${kind}Bytes`);
    return typeof bytes === "number" ? [[kind, bytes]] : [];
  });
}
