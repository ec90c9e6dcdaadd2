/** Waits until an engine answers HTTP requests. */

import { CamemError } from "../errors.ts";
import { connectionFailure } from "./connection-failure.ts";
import { addressOf, directly } from "./upstream.ts";

export interface ReadinessOptions {
  readonly upstream: URL;
  /** A path that answers 2xx once the engine is ready. Without it any answer counts. */
  readonly path: string | undefined;
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
}

const intervalMs = 50;
/** An engine may accept a connection long before it answers. */
const attemptTimeoutMs = 5_000;

/**
 * Resolves when the engine is ready.
 *
 * @throws CamemError `TIMED_OUT` with the latest failure, or the reason of `signal`
 */
export async function untilReady({ upstream, path, deadlineMs, signal }: ReadinessOptions): Promise<void> {
  const url = addressOf(upstream, path ?? "/");
  const untilMs = performance.now() + deadlineMs;
  let latest = "it was not asked";
  while (performance.now() < untilMs) {
    signal.throwIfAborted();
    const failure = await attempt(url, path !== undefined, signal);
    if (failure === undefined) return;
    latest = failure;
    await Bun.sleep(intervalMs);
  }
  signal.throwIfAborted();
  throw new CamemError(
    "TIMED_OUT",
    `the engine at ${url} was not ready within ${deadlineMs} ms: ${latest}; check the upstream address and the ready path, or raise the ready deadline`,
  );
}

/** Undefined when the engine is ready. */
async function attempt(url: string, needsSuccess: boolean, signal: AbortSignal): Promise<string | undefined> {
  try {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(attemptTimeoutMs)]);
    const response = await fetch(url, { ...directly, signal: limit, redirect: "manual", keepalive: false });
    await response.body?.cancel();
    return !needsSuccess || response.ok ? undefined : `it answered ${response.status}`;
  } catch (error) {
    return connectionFailure(error);
  }
}
