import { CamemError } from "../errors.ts";
import * as native from "../ffi/index.ts";

const closedTexts = {
  closing: "is being closed; await its close(), then call CaMemAllocator.getInstance()",
  "half closed": "could not give everything back when it was closed; call close() again",
  closed: "is closed; call CaMemAllocator.getInstance() again",
  replaced:
    "was left open, and closed by a hot reload or another test file; call CaMemAllocator.getInstance() again",
} as const;

/** Whether an allocator is open, and its closing. */
export class Lifecycle {
  #state: "open" | keyof typeof closedTexts = "open";
  #closing: Promise<void> | undefined;

  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** @throws CamemError `CLOSED` */
  assertOpen(): void {
    if (this.#state !== "open") throw closedError(this.#state);
  }

  /**
   * Calls `end` with the reason for which transitions end, then detaches from AscendCL. Later calls return the same promise,
   * unless detaching failed: then they try again.
   */
  close(end: (reason: CamemError) => Promise<void>): Promise<void> {
    this.#closing ??= this.#closeNow(end);
    return this.#closing;
  }

  /** Calls `end` with the reason for which transitions end, and detaches. Blocks until memory is released. */
  abandon(end: (reason: CamemError) => Promise<void>): void {
    const isAttached = this.#state === "open" || this.#state === "half closed";
    this.#state = "replaced";
    this.#closing = Promise.resolve();
    void end(closedError(this.#state));
    if (isAttached) native.abandonAttachment();
  }

  async #closeNow(end: (reason: CamemError) => Promise<void>): Promise<void> {
    this.#state = "closing";
    await end(closedError(this.#state));
    try {
      await native.detach();
    } catch (error) {
      this.#state = "half closed";
      this.#closing = undefined;
      throw error;
    }
    this.#state = "closed";
  }
}

function closedError(state: keyof typeof closedTexts): CamemError {
  return new CamemError("CLOSED", `the allocator ${closedTexts[state]}`);
}
