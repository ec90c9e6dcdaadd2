/** Progress on standard error: one line that changes on a terminal, a line for each phase elsewhere. */
export class ProgressLine {
  readonly #isTerminal = process.stderr.isTTY === true;
  #phase = "";

  show(phase: string, text: string): void {
    if (!this.#isTerminal && phase === this.#phase) return;
    this.#phase = phase;
    process.stderr.write(this.#isTerminal ? `\r\x1b[K${text}` : `${text}\n`);
  }

  /** Removes a line that changes. */
  clear(): void {
    if (this.#isTerminal && this.#phase !== "") process.stderr.write("\r\x1b[K");
  }
}
