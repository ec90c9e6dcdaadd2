import type { Lease } from "../engine/lease.ts";

const encoder = new TextEncoder();

/**
 * A response body from the output of an engine. Releases the lease once `source` has ended, has thrown, or has returned after the
 * client disconnected, also when it never started. It does not release the lease earlier, because the engine may still be
 * running.
 */
export function leasedStream(
  lease: Lease,
  source: AsyncIterable<string | Uint8Array>,
): ReadableStream<Uint8Array> {
  const pieces = source[Symbol.asyncIterator]();
  let isCancelled = false;
  return new ReadableStream<Uint8Array>({
    async pull(output) {
      try {
        const { done, value } = await pieces.next();
        // The client disconnected meanwhile: `cancel` releases the lease.
        if (isCancelled) return;
        if (!done) return output.enqueue(typeof value === "string" ? encoder.encode(value) : value);
      } catch (error) {
        lease.release();
        // Bun prints the error of a body. An aborted request is expected, and its client sees the connection close.
        return output.error(lease.signal.aborted ? undefined : error);
      }
      lease.release();
      output.close();
    },
    async cancel() {
      isCancelled = true;
      try {
        await pieces.return?.();
      } finally {
        lease.release();
      }
    },
  });
}
