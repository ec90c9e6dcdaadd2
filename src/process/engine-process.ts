/** One run of a program: its start, its signals, and its end with everything that it has started. */

import { randomUUID } from "node:crypto";
import { statSync } from "node:fs";
import { constants } from "node:os";
import { longestDelayMs } from "../async/clock.ts";
import { CamemError, formatValue, messageOf } from "../errors.ts";
import { endAll, processesOf, runVariable, sendSignal } from "./family.ts";

/** How a program ended. */
export interface ProcessEnd {
  /** The exit code of the program; 128 and the number of the signal that ended it. */
  readonly exitCode: number;
  /** The signal that ended it, or null. */
  readonly signal: NodeJS.Signals | null;
  /** How many processes the program had left behind; they have been ended. */
  readonly leftBehind: number;
}

export interface StartOptions {
  readonly program: string;
  readonly args: readonly string[];
  /** Variables besides those of this process. */
  readonly environment: Readonly<Record<string, string>>;
  readonly cwd?: string | undefined;
  /** Where the output goes: to that of this process, or to standard error. */
  readonly output?: "inherit" | "stderr";
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

/** The time for processes that were left behind to end by SIGTERM. */
const leftBehindGraceMs = 2_000;

/**
 * A started program. It leads a session of its own, so that a terminal's signals reach it only once, through {@link kill}. It
 * keeps running when this process is killed.
 */
export class EngineProcess {
  readonly pid: number;
  /** Marks the processes of this run, see {@link processesOf}. */
  readonly runId: string;
  /** Resolves when the program and all processes that it has started have ended. */
  readonly ended: Promise<ProcessEnd>;
  readonly #child: Bun.Subprocess;
  #hasEnded = false;

  /** @throws CamemError `INVALID_CONFIG` when the program cannot be started, or not in that folder */
  constructor({ program, args, environment, cwd, output = "inherit" }: StartOptions) {
    this.runId = randomUUID();
    const target = output === "stderr" ? 2 : "inherit";
    // Otherwise the system's error would name the program.
    if (cwd !== undefined && !isFolder(cwd))
      throw new CamemError(
        "INVALID_CONFIG",
        `there is no folder ${formatValue(cwd)} to start the program in`,
        {
          property: "directory",
        },
      );
    try {
      this.#child = Bun.spawn([program, ...args], {
        env: { ...process.env, ...environment, [runVariable]: this.runId },
        ...(cwd !== undefined && { cwd }),
        stdin: output === "stderr" ? "ignore" : "inherit",
        stdout: target,
        stderr: "inherit",
        detached: true,
      });
    } catch (cause) {
      throw new CamemError(
        "INVALID_CONFIG",
        `the program ${formatValue(program)} cannot be started: ${messageOf(cause)}`,
        { property: "program", cause },
      );
    }
    this.pid = this.#child.pid;
    this.ended = this.#end();
  }

  /** True until {@link ended} resolves. */
  get isRunning(): boolean {
    return !this.#hasEnded;
  }

  /** Sends a signal to the program and its process group. */
  kill(signal: NodeJS.Signals): void {
    sendSignal(-this.pid, signal);
  }

  /** Ends the program: SIGTERM, and SIGKILL to all its processes once `deadlineMs` has passed. */
  async stop(deadlineMs: number): Promise<ProcessEnd> {
    this.kill("SIGTERM");
    const timer = setTimeout(() => this.killAll(), Math.min(deadlineMs, longestDelayMs));
    try {
      return await this.ended;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends all processes of the run at once. */
  killAll(): void {
    this.kill("SIGKILL");
    for (const pid of processesOf(this.runId)) sendSignal(pid, "SIGKILL");
  }

  async #end(): Promise<ProcessEnd> {
    await this.#child.exited;
    const { exitCode, signalCode } = this.#child;
    const leftBehind = await this.#endLeftBehind();
    this.#hasEnded = true;
    const signal = signalCode as NodeJS.Signals | null;
    return {
      exitCode: signal === null ? (exitCode ?? 1) : 128 + constants.signals[signal],
      signal,
      leftBehind,
    };
  }

  async #endLeftBehind(): Promise<number> {
    const left = processesOf(this.runId);
    await endAll(() => processesOf(this.runId), leftBehindGraceMs);
    return left.length;
  }
}
