import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator } from "camem";
import type { EngineConnection } from "../../src/run/attachable-allocator.ts";
import { EngineRun, type RunSurroundings } from "../../src/run/engine-run.ts";
import type { RunOptions } from "../../src/run/run-options.ts";
import { until } from "../support/fake-engine.ts";

const engineProgram = join(import.meta.dir, "engine-program.ts");

/** A port that nobody listened on a moment ago. */
export function freePort(): number {
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const { port = 0 } = server;
  server.stop(true);
  return port;
}

/** The allocator of this process, as a connection to another process has it. */
export function connectionTo(allocator: CaMemAllocator): EngineConnection {
  return {
    device: allocator.device,
    usage: () => allocator.usage(),
    hostUsage: () => allocator.hostUsage(),
    plan: allocator.plan.bind(allocator),
    sleep: (options) => allocator.sleep(options),
    wakeUp: (options) => allocator.wakeUp(options),
    memGetInfo: (device) => allocator.memGetInfo(device),
    defineTag: (name, policy) => allocator.defineTag(name, policy),
    close: async () => undefined,
  };
}

/**
 * A run of `engine-program.ts` in this process. Its memory is that of this process's allocator, as if the program had the library:
 * the library that is preloaded here does nothing.
 */
export class RunFixture implements AsyncDisposable {
  readonly reports: string[] = [];
  readonly run: EngineRun;
  readonly allocator = CaMemAllocator.getInstance();
  readonly #folder = mkdtempSync(join(tmpdir(), "camem-run-"));

  constructor(
    behaviours: readonly string[],
    options: Partial<RunOptions> = {},
    surroundings: Partial<RunSurroundings> = {},
  ) {
    const library = join(this.#folder, "libinert.so");
    copyFileSync(
      join(import.meta.dir, `../../native/linux-${process.arch}/emulator/libascendcl.so`),
      library,
    );
    const port = freePort();
    this.run = new EngineRun(
      {
        command: [process.execPath, engineProgram, String(port), ...behaviours],
        name: "engine",
        listen: { hostname: "127.0.0.1", port: 0 },
        upstream: new URL(`http://127.0.0.1:${port}`),
        loopbackOnly: true,
        ...options,
      },
      {
        connect: async () => connectionTo(this.allocator),
        report: (line) => this.reports.push(line),
        library,
        ...surroundings,
      },
    );
  }

  fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(new URL(path, this.run.url), init);
  }

  /** Resolves when the engine answers. */
  async untilReady(): Promise<void> {
    let isReady = false;
    const ask = async () => {
      isReady = (await this.fetch("/health")).ok;
    };
    await ask();
    await until(() => {
      if (!isReady) void ask();
      return isReady;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.run.signal("SIGKILL");
    await this.run.ended;
    await this.allocator.close();
    rmSync(this.#folder, { recursive: true });
  }
}
