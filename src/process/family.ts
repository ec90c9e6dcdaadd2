/** The processes that belong to a run: the program, and everything that it has started. */

import { readdirSync, readFileSync } from "node:fs";

/** The variable by which a run recognises its processes. Children inherit it, also those that change their session. */
export const runVariable = "CAMEM_RUN_ID";

/** The living processes whose environment has this run's mark. Processes of other users are never among them. */
export function processesOf(runId: string): number[] {
  return processesWith(runVariable, runId);
}

/** The living processes that were started with this value of a variable. */
export function processesWith(variable: string, value: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => has(pid, variable, value));
}

/** A living process of this run that has loaded the library with this file name; undefined where there is none. */
export function memberWithLibrary(runId: string, fileName: string): number | undefined {
  return processesOf(runId).find((pid) => readProcessFile(pid, "maps").includes(`/${fileName}`));
}

/** True for a living process of this run. */
export function isMember(pid: number, runId: string): boolean {
  return has(pid, runVariable, runId);
}

function has(pid: number, variable: string, value: string): boolean {
  return pid !== process.pid && environmentOf(pid).includes(`${variable}=${value}`) && isAlive(pid);
}

const checkIntervalMs = 20;
/** A process that waits for a device in the kernel cannot be killed before that answers. */
const killPatienceMs = 10_000;

/**
 * Ends the processes that `list` names: SIGTERM, and SIGKILL once `graceMs` has passed. Resolves when none is left, or when the
 * kernel has not ended one for 10 seconds.
 */
export async function endAll(list: () => readonly number[], graceMs: number): Promise<void> {
  for (const pid of list()) sendSignal(pid, "SIGTERM");
  const untilMs = performance.now() + graceMs;
  for (let left = list(); left.length > 0; left = list()) {
    const overdueMs = performance.now() - untilMs;
    if (overdueMs > killPatienceMs) return;
    if (overdueMs > 0) for (const pid of left) sendSignal(pid, "SIGKILL");
    await Bun.sleep(checkIntervalMs);
  }
}

/** A negative number stands for a process group. Does nothing where the process has ended. */
export function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Empty for a process that has ended or belongs to another user. */
function environmentOf(pid: number): string[] {
  return readProcessFile(pid, "environ").split("\0");
}

function isAlive(pid: number): boolean {
  // The name, in parentheses, may contain anything.
  const state = /^\d+ \(.*\) (\S)/s.exec(readProcessFile(pid, "stat"))?.[1];
  return state !== undefined && state !== "Z" && state !== "X";
}

function readProcessFile(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "latin1");
  } catch {
    // It has ended, or belongs to another user.
    return "";
  }
}
