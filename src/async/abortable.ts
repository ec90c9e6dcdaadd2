import { CamemError } from "../errors.ts";

/** The error for an aborted signal: its reason where that is a `CamemError`, as when the allocator closes; else `ABORTED`. */
export function aborted(signal: AbortSignal): CamemError {
  if (signal.reason instanceof CamemError) return signal.reason;
  return new CamemError("ABORTED", "the signal was aborted; nothing has changed", { cause: signal.reason });
}

/** Settles like `pending`, or rejects with `reasonOf(signal)` once `signal` aborts. */
export async function abortable<T>(
  pending: PromiseLike<T>,
  signal: AbortSignal,
  reasonOf: (signal: AbortSignal) => unknown = aborted,
): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = () => reject(reasonOf(signal));
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await Promise.race([pending, promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
