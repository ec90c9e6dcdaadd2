/** The processes that belong to a run: the program, and everything that it has started. */

import { readdirSync, readFileSync } from "node:fs";

/** The variable by which a run recognises its processes. Children inherit it, also those that change their session. */
export const runVariable = "CAMEM_RUN_ID";

/** The living processes whose environment has this run's mark. Processes of other users are never among them. */
export function processesOf(runId: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => isMember(pid, runId));
}

/** True for a living process of this run. */
export function isMember(pid: number, runId: string): boolean {
  return pid !== process.pid && environmentOf(pid).includes(`${runVariable}=${runId}`) && isAlive(pid);
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
