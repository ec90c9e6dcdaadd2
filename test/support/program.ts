/** Runs programs to their end. */

import { expect } from "bun:test";
import { join } from "node:path";

interface ProgramOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** The program is stopped when it takes longer. */
  readonly limitMs?: number;
}

export interface Outcome {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

export async function outcomeOf(command: string[], options: ProgramOptions = {}): Promise<Outcome> {
  const { cwd = process.cwd(), env = process.env, limitMs } = options;
  const limit = limitMs === undefined ? {} : { timeout: limitMs };
  const child = Bun.spawn(command, { cwd, env, ...limit, stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ]);
  return { stdout, stderr, exitCode };
}

/**
 * Runs TypeScript in a process of its own, from the top of the checkout, and returns the JSON that it prints.
 *
 * @param link how fast the emulator copies, as `CAMEM_EMULATOR_TIMING` has it
 */
export async function evaluate(program: string, link: string): Promise<unknown> {
  const { stdout, stderr } = await outcomeOf([process.execPath, "-e", program], {
    cwd: join(import.meta.dirname, "../.."),
    env: { ...process.env, CAMEM_EMULATOR_TIMING: link },
  });
  expect(stderr).toBe("");
  return JSON.parse(stdout);
}
