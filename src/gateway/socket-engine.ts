/** An engine that somebody else has started under the library. */

import { CamemError } from "../errors.ts";
import { untilReady } from "../proxy/readiness.ts";
import type { EngineConnection } from "../run/attachable-allocator.ts";
import type { EngineSource } from "./engine-source.ts";
import type { EngineConfig, EngineOrigin } from "./gateway-config.ts";

/** Connects to the engine's control socket. */
export class SocketEngine implements EngineSource {
  readonly canStop = false;
  readonly upstream: URL;
  readonly retryInMs = 0;
  onEnd: ((reason: string) => void) | undefined;
  readonly #config: EngineConfig;
  readonly #path: string;
  readonly #connect: (path: string) => Promise<EngineConnection>;

  constructor(
    config: EngineConfig,
    { path, upstream }: Extract<EngineOrigin, { kind: "socket" }>,
    connect: (path: string) => Promise<EngineConnection>,
  ) {
    this.#config = config;
    this.#path = path;
    this.#connect = connect;
    this.upstream = upstream;
  }

  async start(signal: AbortSignal): Promise<EngineConnection> {
    const { name, readyPath: path, readyDeadlineMs: deadlineMs } = this.#config;
    const connection = await this.#connect(this.#path).catch((cause) => {
      throw new CamemError("ENGINE_UNAVAILABLE", `the engine ${name} is not at ${this.#path}`, { cause });
    });
    try {
      await untilReady({ upstream: this.upstream, path, deadlineMs, signal });
      void connection.gone?.then(() => this.onEnd?.("its process has ended"));
      return connection;
    } catch (error) {
      await connection.close();
      throw error;
    }
  }

  async stop(): Promise<void> {
    // It belongs to somebody else.
  }

  kill(): void {
    // It belongs to somebody else.
  }
}
