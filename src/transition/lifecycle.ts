import { CamemError } from "../errors.ts";

type State = "open" | "closing" | "half closed" | "closed" | "replaced";

/** Whether an allocator is open, and its closing. */
export class Lifecycle {
  readonly #release: () => Promise<void>;
  readonly #reopening: string;
  #state: State = "open";
  #closing: Promise<void> | undefined;

  /**
   * @param release gives back what the allocator holds; may be called again after a failure
   * @param reopening the call that opens another one
   */
  constructor(release: () => Promise<void>, reopening: string) {
    this.#release = release;
    this.#reopening = reopening;
  }

  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** @throws CamemError `CLOSED` */
  assertOpen(): void {
    if (this.#state !== "open") throw this.#closedError();
  }

  /**
   * Calls `end` with the reason for which transitions end, then releases what the allocator holds. Later calls return the same promise,
   * unless that failed: then they try again.
   */
  close(end: (reason: CamemError) => Promise<void>): Promise<void> {
    this.#closing ??= this.#closeNow(end);
    return this.#closing;
  }

  /**
   * Calls `end` with the reason for which transitions end, and `releaseNow` if something is still held, without waiting for work
   * in progress.
   */
  abandon(end: (reason: CamemError) => Promise<void>, releaseNow: () => void): void {
    const isHeld = this.#state === "open" || this.#state === "half closed";
    this.#state = "replaced";
    this.#closing = Promise.resolve();
    void end(this.#closedError());
    if (isHeld) releaseNow();
  }

  async #closeNow(end: (reason: CamemError) => Promise<void>): Promise<void> {
    this.#state = "closing";
    await end(this.#closedError());
    try {
      await this.#release();
    } catch (error) {
      this.#state = "half closed";
      this.#closing = undefined;
      throw error;
    }
    this.#state = "closed";
  }

  #closedError(): CamemError {
    const texts: Record<Exclude<State, "open">, string> = {
      closing: `is being closed; await its close(), then call ${this.#reopening}`,
      "half closed": "could not give everything back when it was closed; call close() again",
      closed: `is closed; call ${this.#reopening} again`,
      replaced: `was left open, and closed by a hot reload or another test file; call ${this.#reopening} again`,
    };
    return new CamemError("CLOSED", `the allocator ${this.#state === "open" ? "" : texts[this.#state]}`);
  }
}
