import { clearTimeout, setTimeout } from "node:timers";

/** Timers and elapsed time; tests inject their own. */
export interface Clock {
  /** Milliseconds on a clock that never goes back. */
  nowMs(): number;
  /** Calls `callback` once, after `delayMs`. Returns a function that cancels the call. */
  after(delayMs: number, callback: () => void): () => void;
}

/** The longest delay of `setTimeout`, which fires at once for longer ones. */
export const longestDelayMs = 2 ** 31 - 1;

const nowMs = () => performance.now();

/** For deadlines: a pending timer keeps the process alive. */
export const systemClock: Clock = {
  nowMs,
  after(delayMs, callback) {
    const timer = setTimeout(callback, Math.min(delayMs, longestDelayMs));
    return () => clearTimeout(timer);
  },
};

/** For background work: a pending timer does not keep the process alive. */
export const backgroundClock: Clock = {
  nowMs,
  after(delayMs, callback) {
    const timer = setTimeout(callback, Math.min(delayMs, longestDelayMs));
    timer.unref();
    return () => clearTimeout(timer);
  },
};
