/** `camem run`: one program whose memory can sleep, and the proxy in front of it. */

import { basename } from "node:path";
import { longestDelayMs, systemClock } from "../async/clock.ts";
import { Deferred } from "../async/deferred.ts";
import { CamemError } from "../errors.ts";
import { exposeMetrics } from "../metrics/exposition.ts";
import { EngineProcess, type ProcessEnd } from "../process/engine-process.ts";
import { memberWithLibrary } from "../process/family.ts";
import { preloadEnvironment } from "../process/preload.ts";
import { findProgram } from "../process/program.ts";
import { listen } from "../proxy/listen.ts";
import { untilReady } from "../proxy/readiness.ts";
import { ReverseProxy } from "../proxy/reverse-proxy.ts";
import { SleepController } from "../server/engine/controller.ts";
import { IdleSleep } from "../server/engine/idle-sleep.ts";
import { AttachableAllocator, type EngineConnection } from "./attachable-allocator.ts";
import { OperatorFollower } from "./follow-operators.ts";
import { checkRunOptions, type RunOptions } from "./run-options.ts";

/** What a run needs besides its options. */
export interface RunSurroundings {
  /** Connects to the memory of a process of this run; undefined while none of them uses a device. */
  readonly connect: (runId: string) => Promise<EngineConnection | undefined>;
  /** Tells the user something. */
  readonly report: (line: string) => void;
  /** By default the library of this package. */
  readonly library?: string;
  /** How long a program may run with AscendCL loaded before its calls count as unseen; by default 30,000. */
  readonly unseenAfterMs?: number;
}

const connectIntervalMs = 100;
/** How long an engine that answers counts as starting while no connection to its memory is made. */
const attachGraceMs = 5 * connectIntervalMs;
const defaultUnseenAfterMs = 30_000;
/** The time for the last answers to be sent. */
const answerGraceMs = 500;
const whenAsleep = { wake: "wake", hold: "hold", fail: "refuse" } as const;

const defaults = {
  readyDeadlineMs: 600_000,
  holdDeadlineMs: 30_000,
  drainDeadlineMs: 30_000,
  stopDeadlineMs: 30_000,
} as const;

/** A program with the library preloaded, supervised until it ends. */
export class EngineRun {
  readonly name: string;
  readonly controller: SleepController;
  /** The address of the proxy; undefined without one. */
  readonly url: URL | undefined;
  /** Resolves with the exit code once the program and everything it has started have ended. */
  readonly ended: Promise<number>;
  readonly #options: RunOptions;
  readonly #surroundings: RunSurroundings;
  readonly #allocator: AttachableAllocator;
  readonly #process: EngineProcess;
  readonly #ending = new AbortController();
  readonly #owned = new AsyncDisposableStack();
  readonly #ready: Promise<void>;
  /** The memory of the engine was reached once. */
  readonly #attached = Promise.withResolvers<void>();
  #isReady = false;
  #hasReportedUnseen = false;
  #failure: CamemError | undefined;
  #stopTimer: NodeJS.Timeout | undefined;

  /**
   * Starts the program, after everything else that can fail.
   *
   * @throws CamemError `INVALID_CONFIG`, `LIBRARY_NOT_FOUND` or `LIBRARY_INVALID`; nothing has started then
   */
  constructor(options: RunOptions, surroundings: RunSurroundings) {
    checkRunOptions(options);
    const [program, ...args] = options.command;
    const { path, warning } = findProgram(program);
    this.name = options.name ?? basename(path);
    const { onTouch = "wake", rules = [] } = options;
    const { library } = surroundings;
    const environment = preloadEnvironment({
      name: this.name,
      onTouch,
      rules,
      ...(library !== undefined && { library }),
    });
    this.#options = options;
    this.#surroundings = surroundings;
    this.#allocator = new AttachableAllocator(this.name);
    this.controller = this.#newController(onTouch);
    this.url = this.#listen();
    try {
      this.#process = new EngineProcess({ program: path, args, environment });
    } catch (error) {
      void this.#owned.disposeAsync();
      throw error;
    }
    if (warning !== undefined) surroundings.report(`${path}: ${warning}`);
    this.#ready = this.#untilReady();
    this.ended = this.#end();
    void this.#connect();
  }

  /** The process of the program. */
  get pid(): number {
    return this.#process.pid;
  }

  /** Marks the processes of this run. */
  get runId(): string {
    return this.#process.runId;
  }

  /** Passes a signal on. The first that asks the program to end starts the time after which all its processes are killed. */
  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
    if (!/^SIG(TERM|INT|HUP|QUIT)$/.test(signal)) return;
    const deadlineMs = this.#options.stopDeadlineMs ?? defaults.stopDeadlineMs;
    this.#stopTimer ??= setTimeout(
      () => {
        this.#surroundings.report(`${this.name} did not end within ${deadlineMs} ms; killing it`);
        this.#process.killAll();
      },
      Math.min(deadlineMs, longestDelayMs),
    );
  }

  #newController(onTouch: NonNullable<RunOptions["onTouch"]>): SleepController {
    const { holdDeadlineMs, drainDeadlineMs } = { ...defaults, ...this.#options };
    const disposition = whenAsleep[onTouch];
    const controller = new SleepController(this.#allocator, {
      name: this.name,
      whenAsleep: disposition,
      // The library wakes sleeping memory whoever put it to sleep, and requests do the same.
      whenOperatorAsleep: disposition,
      weightTags: [],
      holdDeadlineMs,
      drainDeadlineMs,
    });
    this.#owned.use(controller);
    return controller;
  }

  #listen(): URL | undefined {
    const { listen: address, upstream, token } = this.#options;
    if (address === undefined || upstream === undefined) return undefined;
    const access = token === undefined ? { loopbackOnly: true } : { token };
    const metrics = exposeMetrics({ engine: this.controller, allocator: this.#allocator });
    // Without prom-client the route answers why.
    metrics.then((exposition) => this.#owned.use(exposition)).catch(() => undefined);
    const proxy = new ReverseProxy({
      ...access,
      group: this.controller,
      route: async () => ({
        name: this.name,
        upstream: () => upstream,
        ready: (signal) => this.#awaitReady(signal),
      }),
      engineRoutes: ["/version", "/load", "/server_info", "/get_world_size"],
      isHealthy: () => this.#isReady && this.controller.status.state !== "failed",
      metrics: async () => (await metrics).answer(),
    });
    const server = listen(proxy, address);
    this.#owned.defer(async () => {
      proxy.close();
      // Requests that are held get an answer.
      await this.controller.close();
      await Promise.race([server.stop(), Bun.sleep(answerGraceMs)]);
      await server.stop(true);
    });
    return server.url;
  }

  /** A request that comes while the engine starts waits like one that comes while it sleeps. */
  async #awaitReady(signal: AbortSignal): Promise<void> {
    if (this.#isReady) return;
    const deadlineMs = this.#options.holdDeadlineMs ?? defaults.holdDeadlineMs;
    const expired = () => this.#unavailable(`did not become ready within ${deadlineMs} ms`);
    const wait = new Deferred({ signal, deadlineMs, clock: systemClock, expired });
    this.#ready.then(
      () => wait.resolve(),
      () => wait.reject(this.#unavailable("has not become ready")),
    );
    return wait.promise;
  }

  #unavailable(why: string): CamemError {
    return new CamemError("ENGINE_UNAVAILABLE", `the engine ${this.name} ${why}; try again later`, {
      retryAfterSeconds: 5,
    });
  }

  async #untilReady(): Promise<void> {
    const { upstream, readyPath: path } = this.#options;
    const deadlineMs = this.#options.readyDeadlineMs ?? defaults.readyDeadlineMs;
    if (upstream === undefined) return;
    const { signal } = this.#ending;
    const waiting = untilReady({ upstream, path, deadlineMs, signal });
    try {
      await waiting;
      // Whoever sees a ready engine may put it to sleep.
      await Promise.race([this.#attached.promise, Bun.sleep(attachGraceMs)]);
      this.#isReady = true;
      if (!this.#allocator.isAttached)
        this.#surroundings.report(
          `${this.name} answers requests, but has used no device memory so far; it can sleep once it does`,
        );
    } catch (error) {
      if (!signal.aborted && error instanceof CamemError) {
        this.#failure = error;
        this.#surroundings.report(`${error.message}; ending ${this.name}`);
        this.signal("SIGTERM");
      }
      throw error;
    }
  }

  /** Connects as soon as a process of the program uses a device, and again when that one has ended and another does. */
  async #connect(): Promise<void> {
    const { signal } = this.#ending;
    this.#owned.use(new OperatorFollower(this.controller, this.#allocator));
    this.#owned.defer(async () => this.#allocator.detach()?.close());
    try {
      // A failure to become ready is reported where it is noticed.
      void this.#ready.then(
        () => this.#startIdling(),
        () => undefined,
      );
      while (!signal.aborted) {
        const connection = await this.#untilConnected(signal);
        if (connection === undefined) return;
        this.#allocator.attach(connection);
        this.#attached.resolve();
        this.#surroundings.report(`${this.name} (pid ${this.pid}) can sleep`);
        await Promise.race([connection.gone ?? this.ended, this.ended]);
        await this.#allocator.detach()?.close();
      }
    } catch (error) {
      if (!(error instanceof CamemError)) throw error;
      this.#surroundings.report(`${this.name} cannot sleep: ${error.message}`);
    }
  }

  /** Undefined when the program ends before. */
  async #untilConnected(signal: AbortSignal): Promise<EngineConnection | undefined> {
    const unseenAtMs = performance.now() + (this.#surroundings.unseenAfterMs ?? defaultUnseenAfterMs);
    while (!signal.aborted) {
      const connection = await this.#surroundings.connect(this.#process.runId);
      if (connection !== undefined) return connection;
      if (performance.now() >= unseenAtMs) this.#reportUnseen();
      await Bun.sleep(connectIntervalMs);
    }
    return undefined;
  }

  /** Says once that a program has AscendCL, but none of its calls reached the library. */
  #reportUnseen(): void {
    if (this.#hasReportedUnseen) return;
    this.#hasReportedUnseen = true;
    const pid = memberWithLibrary(this.#process.runId, "libascendcl.so");
    if (pid === undefined) return;
    this.#surroundings.report(
      `process ${pid} has loaded AscendCL, but camem has seen no use of device memory so far; programs that look its functions up themselves, as through bun:ffi or ctypes, cannot sleep this way`,
    );
  }

  #startIdling(): void {
    const ladder = this.#options.idle ?? [];
    if (ladder.length > 0) this.#owned.use(new IdleSleep(this.controller, { ladder }));
  }

  async #end(): Promise<number> {
    // A failure to become ready is reported where it is noticed.
    this.#ready.catch(() => undefined);
    const end = await this.#process.ended;
    clearTimeout(this.#stopTimer);
    this.#ending.abort(new CamemError("CLOSED", `${this.name} has ended`));
    this.#reportEnd(end);
    await this.#owned.disposeAsync();
    return this.#failure === undefined ? end.exitCode : 1;
  }

  #reportEnd({ leftBehind, signal }: ProcessEnd): void {
    const { report } = this.#surroundings;
    if (signal !== null) report(`${this.name} was ended by ${signal}`);
    if (leftBehind > 0)
      report(
        `${this.name} has ended and had left ${leftBehind} processes behind, which camem has ended; start it in the foreground`,
      );
  }
}
