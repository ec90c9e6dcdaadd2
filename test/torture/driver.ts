/** Runs the process under torture and tells how it ended: well, with a finding, hanging, or killed. */

import { join } from "node:path";
import { emulatorEnvironment } from "../fuzz/harness.ts";
import type { Libraries } from "./builds.ts";

/** How a process under torture ended. */
export interface Ending {
  readonly outcomes: ReadonlyMap<string, number>;
  /** What went wrong, in one line, the last steps, and what the process wrote to its standard error. */
  readonly failure:
    | { readonly what: string; readonly history: readonly string[]; readonly words: string }
    | undefined;
}

/** Random operations of one seed. */
export interface Run {
  readonly seed: number;
  readonly steps: number;
  /** Steps left out. */
  readonly without?: readonly number[];
  /** A mistake to be noticed. */
  readonly mistake?: string | undefined;
}

export type Result = Run & Ending;

const silentMs = 90_000;
const historyLength = 40;

/** The lines of a stream, as they come; the callback is called for each. */
async function followLines(
  stream: ReadableStream<Uint8Array>,
  onLine: (line: string) => void,
): Promise<void> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) onLine(line);
  }
}

async function runProcess(
  { preload, shim }: Libraries,
  script: string,
  options: readonly string[],
): Promise<Ending> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, script), ...options], {
    env: {
      ...process.env,
      ...emulatorEnvironment,
      CAMEM_ACL_LIBRARY: "",
      LD_PRELOAD: preload,
      CAMEM_TORTURE_SHIM: shim,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const lines: string[] = [];
  let isSilent = false;
  const giveUp = () => {
    isSilent = true;
    child.kill("SIGKILL");
  };
  let timer = setTimeout(giveUp, silentMs);
  const words = new Response(child.stderr).text();
  await followLines(child.stdout, (line) => {
    lines.push(line);
    clearTimeout(timer);
    timer = setTimeout(giveUp, silentMs);
  });
  const exitCode = await child.exited;
  clearTimeout(timer);
  const last = lines.at(-1) ?? "";
  const outcomes = new Map<string, number>(
    last.startsWith("outcomes ") ? JSON.parse(last.slice("outcomes ".length)) : [],
  );
  if (exitCode === 0 && outcomes.size > 0) return { outcomes, failure: undefined };
  const killed = isSilent
    ? `hangs: silent for ${silentMs} ms`
    : `killed by ${child.signalCode ?? `code ${exitCode}`}`;
  const what = last.startsWith("finding ") ? last : killed;
  return { outcomes, failure: { what, history: lines.slice(-historyLength), words: await words } };
}

export async function torture(libraries: Libraries, run: Run): Promise<Result> {
  const { seed, steps, without = [], mistake } = run;
  const options = ["--seed", `${seed}`, "--steps", `${steps}`, "--without", without.join(",")];
  if (mistake !== undefined) options.push("--mistake", mistake);
  return { ...run, ...(await runProcess(libraries, "random-process.ts", options)) };
}

/** Each fault of these verbs in turn; of all without any. */
export function tortureEach(libraries: Libraries, verbs: readonly string[]): Promise<Ending> {
  return runProcess(libraries, "exhaustive-process.ts", ["--verbs", verbs.join(",")]);
}

/** The number of the last step that a failed run made. */
function lastStepOf({ failure, steps }: Result): number {
  const numbers = (failure?.history ?? []).map((line) => Number.parseInt(line, 10)).filter(Number.isFinite);
  return failure?.history.some((line) => line === "the end") ? steps : Math.max(1, ...numbers);
}

/** What a failure is called, without the numbers in it: a shorter run must fail in the same way. */
const kindOf = ({ failure }: Result) => failure?.what.replaceAll(/\d+/g, "n").slice(0, 60);

/** Leaves out steps as long as the run fails in the same way, for at most `attempts` runs. */
export async function shorten(libraries: Libraries, failed: Result, attempts: number): Promise<Result> {
  let best: Result = failed;
  const steps = lastStepOf(failed);
  let kept = Array.from({ length: steps }, (_, index) => index + 1);
  let chunk = Math.ceil(kept.length / 2);
  let left = attempts;
  const withOnly = (numbers: readonly number[]) =>
    Array.from({ length: steps }, (_, index) => index + 1).filter((number) => !numbers.includes(number));
  while (chunk >= 1 && left > 0) {
    let isShorter = false;
    for (let start = 0; start < kept.length && left > 0; ) {
      const candidate = kept.toSpliced(start, chunk);
      left--;
      const result = await torture(libraries, { seed: failed.seed, steps, without: withOnly(candidate) });
      if (kindOf(result) === kindOf(failed)) {
        best = result;
        kept = candidate;
        isShorter = true;
      } else start += chunk;
    }
    if (!isShorter || chunk > 1) chunk = chunk === 1 ? 0 : Math.ceil(chunk / 2);
  }
  return best;
}
