import type { EngineConnection } from "../run/attachable-allocator.ts";

/** What starts and stops an engine, or finds one that runs already. */
export interface EngineSource {
  /** The address of the engine's server; undefined while it does not run. */
  readonly upstream: URL | undefined;
  /** True when {@link stop} ends the engine and frees all of its memory, and {@link start} starts it again. */
  readonly canStop: boolean;
  /** Milliseconds until {@link start} may be tried again after failures; 0 where it may be at once. */
  readonly retryInMs: number;
  /**
   * Starts the engine, or finds it, and resolves once it answers requests. The connection is undefined for an engine that has used
   * no device memory.
   *
   * @throws CamemError `TIMED_OUT`, `ENGINE_UNAVAILABLE` when it ended, or the reason of `signal`; nothing runs then
   */
  start(signal: AbortSignal): Promise<EngineConnection | undefined>;
  /** Ends the engine, where {@link canStop}. */
  stop(): Promise<void>;
  /** Ends it at once. */
  kill(): void;
  /** Called when the engine has ended by itself. */
  onEnd: ((reason: string) => void) | undefined;
}
