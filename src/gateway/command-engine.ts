/** An engine that the gateway starts. */

import { CamemError, messageOf } from "../errors.ts";
import { EngineProcess, type ProcessEnd } from "../process/engine-process.ts";
import { preloadEnvironment } from "../process/preload.ts";
import { findProgram } from "../process/program.ts";
import { untilReady } from "../proxy/readiness.ts";
import type { EngineConnection } from "../run/attachable-allocator.ts";
import type { RunSurroundings } from "../run/engine-run.ts";
import type { EngineSource } from "./engine-source.ts";
import { type EngineConfig, type EngineOrigin, portMark } from "./gateway-config.ts";

/** The wait before the next start, doubled by every further failure. */
const firstBackoffMs = 1_000;
const longestBackoffMs = 60_000;
/** An engine that has run for this long has not failed to start. */
const steadyMs = 60_000;
/** How long after the engine answers its memory may still be unknown. */
const lostGraceMs = 1_000;
const defaultConnectGraceMs = 500;
const intervalMs = 50;

interface CommandEngineOptions extends RunSurroundings {
  readonly config: EngineConfig;
  readonly origin: Extract<EngineOrigin, { kind: "command" }>;
  readonly stopDeadlineMs: number;
  readonly connectGraceMs?: number;
  /** Variables of every engine of the gateway. */
  readonly environment: Readonly<Record<string, string>>;
}

/** Starts its program with the library preloaded, and again when it has ended. */
export class CommandEngine implements EngineSource {
  readonly canStop = true;
  readonly #options: CommandEngineOptions;
  onEnd: ((reason: string) => void) | undefined;
  #process: EngineProcess | undefined;
  #upstream: URL | undefined;
  #failures = 0;
  #startedMs = 0;
  #notBeforeMs = 0;
  #isStopping = false;

  constructor(options: CommandEngineOptions) {
    this.#options = options;
  }

  get upstream(): URL | undefined {
    return this.#upstream;
  }

  get retryInMs(): number {
    return Math.max(0, this.#notBeforeMs - performance.now());
  }

  async start(signal: AbortSignal): Promise<EngineConnection | undefined> {
    try {
      return await this.#start(signal);
    } catch (error) {
      const { config, report } = this.#options;
      if (!signal.aborted) report(`${config.name}: not started: ${messageOf(error)}`);
      throw error;
    }
  }

  async #start(signal: AbortSignal): Promise<EngineConnection | undefined> {
    const { config, origin, report, connect, connectGraceMs = defaultConnectGraceMs } = this.#options;
    const port = String(freePort());
    const upstream = new URL(withPort(origin.upstream, port));
    const process = this.#spawn(port);
    const ending = new AbortController();
    const ended = process.ended.then((end) => this.#noteEnd(process, end, ending));
    const { readyPath: path, readyDeadlineMs: deadlineMs, name } = config;
    report(`${name}: started (pid ${process.pid}, ${upstream.origin})`);
    try {
      await untilReady({ upstream, path, deadlineMs, signal: AbortSignal.any([signal, ending.signal]) });
      const connection = await firstConnection(() => connect(process.runId), connectGraceMs, ending.signal);
      if (ending.signal.aborted) {
        await connection?.close();
        throw ending.signal.reason;
      }
      this.#upstream = upstream;
      void connection?.gone?.then(() => this.#endUnreachable(process));
      if (connection === undefined)
        report(`${name}: has used no device memory; to free it, camem ends the program`);
      return connection;
    } catch (error) {
      if (process.isRunning) {
        this.#isStopping = true;
        await process.stop(this.#options.stopDeadlineMs);
      }
      await ended;
      if (!signal.aborted) this.#noteFailure();
      throw error;
    }
  }

  /** Ends a program whose memory cannot be reached any more although it lives: the next request starts it again. */
  async #endUnreachable(process: EngineProcess): Promise<void> {
    // The end of the program itself is noticed meanwhile.
    await Bun.sleep(lostGraceMs);
    if (this.#process !== process || !process.isRunning || this.#isStopping) return;
    this.#options.report(`${this.#options.config.name}: its memory cannot be reached any more; ending it`);
    await process.stop(this.#options.stopDeadlineMs);
  }

  async stop(): Promise<void> {
    const process = this.#process;
    if (process === undefined) return;
    this.#isStopping = true;
    await process.stop(this.#options.stopDeadlineMs);
  }

  kill(): void {
    this.#isStopping = true;
    this.#process?.killAll();
  }

  #spawn(port: string): EngineProcess {
    const { config, origin, library } = this.#options;
    const [program, ...args] = origin.command.map((part) => withPort(part, port));
    const { path, warning } = findProgram(program ?? "");
    if (warning !== undefined) this.#options.report(`${config.name}: ${path}: ${warning}`);
    const { name, onTouch, rules, environment, directory: cwd } = config;
    const preload = preloadEnvironment(
      { name, onTouch, rules, ...(library !== undefined && { library }) },
      {
        ...process.env,
        ...environment,
      },
    );
    this.#isStopping = false;
    this.#startedMs = performance.now();
    this.#process = new EngineProcess({
      program: path,
      args,
      environment: { ...environment, ...preload, ...this.#options.environment, PORT: port },
      cwd,
      output: "stderr",
    });
    return this.#process;
  }

  #noteEnd(process: EngineProcess, { exitCode, signal }: ProcessEnd, ending: AbortController): void {
    if (this.#process !== process) return;
    const wasServing = this.#upstream !== undefined;
    this.#process = undefined;
    this.#upstream = undefined;
    const { name } = this.#options.config;
    const how = signal === null ? `exit code ${exitCode}` : signal;
    ending.abort(
      new CamemError("ENGINE_UNAVAILABLE", `the engine ${name} ended with ${how}; see its output`),
    );
    if (this.#isStopping) return;
    this.#options.report(`${name}: ended unexpectedly with ${how}`);
    if (!wasServing) return;
    this.#noteFailure();
    this.onEnd?.(how);
  }

  #noteFailure(): void {
    const hasBeenSteady = performance.now() - this.#startedMs > steadyMs;
    this.#failures = hasBeenSteady ? 1 : this.#failures + 1;
    this.#notBeforeMs =
      performance.now() + Math.min(longestBackoffMs, firstBackoffMs * 2 ** (this.#failures - 1));
  }
}

/** The port that the operating system would choose now. */
function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  const { port } = server;
  server.stop(true);
  return port;
}

function withPort(text: string, port: string): string {
  return text.replaceAll(portMark, port);
}

/** An engine that answers may open its device only a moment later. */
async function firstConnection(
  connect: () => Promise<EngineConnection | undefined>,
  graceMs: number,
  signal: AbortSignal,
): Promise<EngineConnection | undefined> {
  const untilMs = performance.now() + graceMs;
  while (true) {
    signal.throwIfAborted();
    const connection = await connect();
    if (connection !== undefined || performance.now() >= untilMs) return connection;
    await Bun.sleep(intervalMs);
  }
}
