import { readFileSync } from "node:fs";

/** The process of an engine, as the engine itself sees it. */
interface EngineProcess {
  readonly pid: number;
  /** When it began, in clock ticks after the machine did. */
  readonly startTime: number;
}

/** When a process began; undefined where there is none. Its name, in parentheses, may contain spaces and parentheses. */
function startTimeOf(pid: number): number | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fieldsBetween = 19;
    return Number(text.slice(text.lastIndexOf(")") + 2).split(" ")[fieldsBetween]);
  } catch {
    return undefined;
  }
}

/** The engine's process number, unless it is in another namespace, where its number means nothing here. */
export function visibleProcess({ pid, startTime }: EngineProcess): number | undefined {
  return startTimeOf(pid) === startTime ? pid : undefined;
}
