import { backgroundClock } from "../async/clock.ts";
import type { Native } from "../ffi/index.ts";
import type { SegmentGroup } from "../memory/table.ts";
import type { Config } from "../options/allocator-options.ts";

/** Keeps free page-locked host memory after a transition: up to `retainBytes`, for `retainIdleMs`. */
export class HostRetention {
  readonly #native: Native;
  readonly #config: Pick<Config, "retainBytes" | "retainIdleMs">;
  readonly #onIdle: () => void;
  #cancelTimer: (() => void) | undefined;

  /** @param onIdle called after `retainIdleMs` without a transition; must give the retained memory back */
  constructor(native: Native, config: Pick<Config, "retainBytes" | "retainIdleMs">, onIdle: () => void) {
    this.#native = native;
    this.#config = config;
    this.#onIdle = onIdle;
  }

  /** The most that a transition keeps. */
  get limitBytes(): number {
    return this.#config.retainBytes;
  }

  /** Restarts the idle time. */
  restartIdleTimer(): void {
    this.stop();
    if (this.limitBytes === 0 || !Number.isFinite(this.#config.retainIdleMs)) return;
    this.#cancelTimer = backgroundClock.after(this.#config.retainIdleMs, this.#onIdle);
  }

  stop(): void {
    this.#cancelTimer?.();
  }

  /** True when an earlier plan left host memory that it should have given back. */
  hasLeftovers(groups: readonly SegmentGroup[]): boolean {
    const { freeBytes, reservedBytes } = this.#native.hostInfo();
    const hasStaleBackup = groups.some(
      ({ state, clean, backedUp }) => state === "mapped" && !clean && backedUp,
    );
    return hasStaleBackup || freeBytes > Math.max(reservedBytes, this.limitBytes);
  }
}
