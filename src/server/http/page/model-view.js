/**
 * A model: its state, its tags, the transition in progress, and the buttons.
 *
 * @import { TagUsage } from "../../../memory/usage.ts"
 * @import { EngineStatus, RequestCounts, TransitionProgressEvent, TransitionStartedEvent } from "../../engine/events.ts"
 */

import { element, newId, updateViews } from "./dom.js";
import { formatBytes, formatState, formatStatus, formatTransition } from "./format.js";
import { TagView } from "./memory-views.js";

/**
 * What the buttons do.
 *
 * @typedef {object} ModelActions
 * @property {(model: string, level: string) => Promise<unknown>} sleep
 * @property {(model: string) => Promise<unknown>} wakeUp
 * @property {() => void} onStart called before an action
 * @property {(error: unknown, label: string) => void} onFailure
 */

export class ModelView {
  #name;
  #actions;
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
  #hasAwakeTags = true;
  /** @type {(() => void)[]} */
  #updateButtons = [];
  /** @type {HTMLElement} */
  element;

  /**
   * @param {string} name
   * @param {ModelActions} actions
   */
  constructor(name, actions) {
    this.#name = name;
    this.#actions = actions;
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
        this.#button(
          "Sleep, level 1",
          () => actions.sleep(name, "1"),
          () => this.#canSleep(1),
        ),
        this.#button(
          "Sleep, level 2",
          () => actions.sleep(name, "2"),
          () => this.#canSleep(2),
        ),
        this.#button(
          "Wake up",
          () => actions.wakeUp(name),
          () => this.#status?.state !== "awake",
        ),
      ),
    );
  }

  /** @param {1 | 2} level */
  #canSleep(level) {
    const { state, level: current = null } = this.#status ?? {};
    const isAsleep = state === "asleep" && current !== null && current >= level;
    return !isAsleep || this.#hasAwakeTags;
  }

  /**
   * @param {string} text
   * @param {() => Promise<unknown>} run
   * @param {() => boolean} hasEffect
   */
  #button(text, run, hasEffect) {
    const label = `${text}: ${this.#name}`;
    const button = element("button", { type: "button", "aria-label": label }, text);
    let isBusy = false;
    const update = () => {
      // `disabled` would move the focus away.
      button.setAttribute("aria-disabled", String(isBusy || !hasEffect()));
      button.toggleAttribute("data-busy", isBusy);
    };
    this.#updateButtons.push(update);
    button.addEventListener("click", async () => {
      if (button.getAttribute("aria-disabled") === "true") return;
      isBusy = true;
      update();
      this.#actions.onStart();
      try {
        await run();
      } catch (error) {
        this.#actions.onFailure(error, label);
      } finally {
        isBusy = false;
        update();
      }
    });
    return button;
  }

  /** @param {EngineStatus} status */
  showStatus(status) {
    this.#status = status;
    this.#state.textContent = formatState(status.state);
    this.#state.dataset["state"] = status.state;
    this.#details.textContent = formatStatus(status);
    for (const update of this.#updateButtons) update();
  }

  /** @param {RequestCounts} requests */
  showRequests(requests) {
    if (this.#status !== undefined) this.showStatus({ ...this.#status, requests });
  }

  /**
   * @param {Readonly<Record<string, TagUsage>>} tags
   * @param {number} fullBytes
   */
  showTags(tags, fullBytes) {
    updateViews(this.#tags, this.#tagList, Object.keys(tags), (tag) => new TagView(tag));
    for (const [tag, usage] of Object.entries(tags)) this.#tags.get(tag)?.show(usage, fullBytes);
    // `sleep_persistent` memory never sleeps.
    this.#hasAwakeTags = Object.entries(tags).some(
      ([tag, { state }]) => tag !== "sleep_persistent" && state !== "asleep",
    );
    for (const update of this.#updateButtons) update();
  }

  /** @param {TransitionStartedEvent | TransitionProgressEvent} event */
  showRunning(event) {
    this.#running.hidden = false;
    if (event.type === "transition-started") {
      this.#phase.textContent = `${formatTransition(event)}: starting`;
      this.#progress.removeAttribute("value");
      return;
    }
    const { phase, bytesDone, bytesTotal } = event.progress;
    const bytes = bytesTotal > 0 ? `, ${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)} copied` : "";
    this.#phase.textContent = `${formatTransition(event)}: ${phase}${bytes}`;
    if (bytesTotal === 0) return this.#progress.removeAttribute("value");
    this.#progress.max = bytesTotal;
    this.#progress.value = bytesDone;
  }

  hideRunning() {
    this.#running.hidden = true;
  }
}
