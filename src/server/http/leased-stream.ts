import type { Lease } from "../engine/lease.ts";

/** How many pieces a source may add after its lease was aborted: enough to say goodbye, too few to go on. */
const lastPiecesLimit = 16;

const encoder = new TextEncoder();

/**
 * A response body from the output of an engine. Releases the lease once `source` has ended, has thrown, or has returned after the
 * client disconnected, also when it never started. It does not release the lease earlier, because the engine may still be
 * running. When the lease is aborted, `source` is read to its end, also while the client does not read.
 */
export function leasedStream(
  lease: Lease,
  source: AsyncIterable<string | Uint8Array>,
): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>(new LeasedSource(lease, source[Symbol.asyncIterator]()));
}

type Output = ReadableStreamDefaultController<Uint8Array>;

class LeasedSource {
  readonly #lease: Lease;
  readonly #pieces: AsyncIterator<string | Uint8Array>;
  #isReading = false;
  #isEnded = false;
  #lastPieces = 0;
  #stopListening: (() => void) | undefined;

  constructor(lease: Lease, pieces: AsyncIterator<string | Uint8Array>) {
    this.#lease = lease;
    this.#pieces = pieces;
  }

  start(output: Output): void {
    const { signal } = this.#lease;
    const readToEnd = () => void this.pull(output);
    signal.addEventListener("abort", readToEnd, { once: true });
    this.#stopListening = () => signal.removeEventListener("abort", readToEnd);
    if (signal.aborted) readToEnd();
  }

  async pull(output: Output): Promise<void> {
    if (this.#isReading) return;
    this.#isReading = true;
    do await this.#passOn(output);
    while (this.#lease.signal.aborted && !this.#isEnded);
    this.#isReading = false;
  }

  async cancel(): Promise<void> {
    this.#isEnded = true;
    try {
      await this.#pieces.return?.();
    } finally {
      this.#release();
    }
  }

  /** Passes one piece on. */
  async #passOn(output: Output): Promise<void> {
    try {
      await this.#endIfEndless();
      const { done, value } = await this.#pieces.next();
      // The client disconnected meanwhile: `cancel` releases the lease.
      if (this.#isEnded) return;
      if (!done) return output.enqueue(typeof value === "string" ? encoder.encode(value) : value);
    } catch (error) {
      this.#release();
      // Bun prints the error of a body. An aborted request is expected, and its client sees the connection close.
      return output.error(this.#lease.signal.aborted ? undefined : error);
    }
    this.#release();
    output.close();
  }

  /** Ends a source that goes on although its lease was aborted. */
  async #endIfEndless(): Promise<void> {
    const { signal } = this.#lease;
    if (!signal.aborted || this.#lastPieces++ < lastPiecesLimit) return;
    await this.#pieces.return?.();
    throw signal.reason;
  }

  #release(): void {
    this.#isEnded = true;
    this.#stopListening?.();
    this.#lease.release();
  }
}
