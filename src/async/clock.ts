/** Time as this package waits for it; tests bring a clock of their own. */
export interface Clock {
  /** Milliseconds that only go forward. */
  nowMs(): number;
  /** Calls `callback` once, after `delayMs`. Returns a function that calls it off. */
  after(delayMs: number, callback: () => void): () => void;
}

/** `setTimeout` waits no longer than this; anything above would fire at once. */
export const longestDelayMs = 2 ** 31 - 1;

const nowMs = () => performance.now();

/** For deadlines: what is waited for keeps the process alive. */
export const systemClock: Clock = {
  nowMs,
  after(delayMs, callback) {
    const timer = setTimeout(callback, Math.min(delayMs, longestDelayMs));
    return () => clearTimeout(timer);
  },
};

/** For what happens in the background: it does not keep the process alive. */
export const backgroundClock: Clock = {
  nowMs,
  after(delayMs, callback) {
    const timer = setTimeout(callback, Math.min(delayMs, longestDelayMs));
    timer.unref();
    return () => clearTimeout(timer);
  },
};
