/** Follows sleeps and wake-ups that somebody else has caused, such as `camem sleep`, or the engine's own touch of its memory. */

import { backgroundClock, type Clock } from "../async/clock.ts";
import { CamemError } from "../errors.ts";
import type { SleepController } from "../server/engine/controller.ts";
import type { AttachableAllocator } from "./attachable-allocator.ts";

const intervalMs = 500;

/** Compares the engine's memory with the state of its controller from time to time, and makes the controller agree. */
export class OperatorFollower implements Disposable {
  readonly #controller: SleepController;
  readonly #allocator: AttachableAllocator;
  readonly #clock: Clock;
  #cancel: (() => void) | undefined;
  #isClosed = false;

  constructor(controller: SleepController, allocator: AttachableAllocator, clock: Clock = backgroundClock) {
    this.#controller = controller;
    this.#allocator = allocator;
    this.#clock = clock;
    this.#schedule();
  }

  [Symbol.dispose](): void {
    this.#isClosed = true;
    this.#cancel?.();
  }

  #schedule(): void {
    if (this.#isClosed) return;
    this.#cancel = this.#clock.after(intervalMs, () => void this.#follow().finally(() => this.#schedule()));
  }

  async #follow(): Promise<void> {
    try {
      const { state } = this.#controller.status;
      const isAsleep = Object.values(this.#allocator.usage()).some((tag) => tag.state !== "awake");
      const onlyIf = () => this.#controller.status.state === state;
      // Neither call moves memory: it has moved already.
      if (isAsleep && state === "awake")
        await this.#controller.sleep({ mode: "wait", deadlineMs: 0, reason: "operator", onlyIf });
      // A failure of an engine that has died is over once another one is connected.
      if (!isAsleep && (state === "asleep" || state === "failed"))
        await this.#controller.wakeUp({ reason: "operator", onlyIf });
    } catch (error) {
      // Requests are in flight, or the engine has ended: the next comparison tells.
      if (!(error instanceof CamemError)) throw error;
    }
  }
}
