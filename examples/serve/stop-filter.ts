/** Passes text on up to the first stop text. The possible beginning of a stop text is held back until the next piece decides. */
export class StopFilter {
  readonly #stops: readonly string[];
  #held = "";

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** The text that can be passed on, and whether a stop text ends it. */
  push(text: string): { readonly text: string; readonly stopped: boolean } {
    const all = this.#held + text;
    const ends = this.#stops.map((stop) => all.indexOf(stop)).filter((index) => index >= 0);
    if (ends.length > 0) {
      this.#held = "";
      return { text: all.slice(0, Math.min(...ends)), stopped: true };
    }
    const heldLength = Math.max(0, ...this.#stops.map((stop) => overlap(all, stop)));
    this.#held = all.slice(all.length - heldLength);
    return { text: all.slice(0, all.length - heldLength), stopped: false };
  }

  /** The text that is held back. Call it at the end. */
  flush(): string {
    const held = this.#held;
    this.#held = "";
    return held;
  }
}

/** The length of the longest suffix of `text` that is a prefix of `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--)
    if (text.endsWith(stop.slice(0, length))) return length;
  return 0;
}
