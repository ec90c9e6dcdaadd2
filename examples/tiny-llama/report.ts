import { SingleBar } from "cli-progress";

/** Prints the results of the demo: aligned lines for people, or only the final JSON line. */
export class Report {
  readonly #json: boolean;

  constructor(json: boolean) {
    this.#json = json;
  }

  /** Goes to standard error when standard output is reserved for the JSON line. */
  headline(text: string): void {
    if (this.#json) console.error(text);
    else console.log(text);
  }

  line(label: string, value = ""): void {
    if (!this.#json) console.log(`${label.padEnd(labelWidth)}${value}`.trimEnd());
  }

  text(label: string, prompt: string, continuation: string): void {
    if (this.#json) return;
    const lines = `${prompt}${continuation}`.trimEnd().split("\n");
    console.log(["", label, ...lines.map((line) => `  ${line}`), ""].join("\n"));
  }

  result(result: object): void {
    if (this.#json) console.log(JSON.stringify(result));
  }
}

const labelWidth = 34;

/**
 * Runs `body` with a progress bar on standard error if that is a terminal, and removes the bar afterwards. `body` reports its
 * progress through `update`.
 */
export async function withProgress<Result>(
  label: string,
  body: (update: (done: number, total: number) => void) => Promise<Result>,
): Promise<Result> {
  if (!process.stderr.isTTY) return body(() => undefined);
  const bar = new SingleBar({
    stream: process.stderr,
    format: `${label.padEnd(labelWidth)}{bar} {percentage} %`,
    hideCursor: true,
    clearOnComplete: true,
  });
  bar.start(1, 0);
  try {
    return await body((done, total) => {
      bar.setTotal(Math.max(total, 1));
      bar.update(done);
    });
  } finally {
    bar.stop();
  }
}
