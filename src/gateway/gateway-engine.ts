/** One engine of the gateway: where it comes from, its memory, and its controller. */

import { CamemError } from "../errors.ts";
import type { EngineConnection } from "../run/attachable-allocator.ts";
import type { RunSurroundings } from "../run/engine-run.ts";
import { SleepController } from "../server/engine/controller.ts";
import { CommandEngine } from "./command-engine.ts";
import type { EngineSource } from "./engine-source.ts";
import { EntryAllocator } from "./entry-allocator.ts";
import type { EngineConfig, GatewayConfig } from "./gateway-config.ts";
import { HttpEngine } from "./http-engine.ts";
import { SocketEngine } from "./socket-engine.ts";

/** What a gateway needs besides its file. */
export interface GatewaySurroundings extends RunSurroundings {
  /** Connects to the control socket at a path. */
  readonly connectSocket: (path: string) => Promise<EngineConnection>;
  /** How long after an engine answers its memory may still be unknown, in milliseconds; by default 500. */
  readonly connectGraceMs?: number;
}

type DeviceMemory = (
  device: number,
) => { readonly freeBytes: number; readonly totalBytes: number } | undefined;

export class GatewayEngine implements AsyncDisposable {
  readonly config: EngineConfig;
  readonly source: EngineSource;
  readonly allocator: EntryAllocator;
  readonly controller: SleepController;
  readonly #report: (line: string) => void;

  /** @param deviceMemory the memory of a device, by any engine that runs */
  constructor(
    config: EngineConfig,
    gateway: GatewayConfig,
    surroundings: GatewaySurroundings,
    deviceMemory: DeviceMemory,
  ) {
    const { name, devices, memoryBytes } = config;
    this.config = config;
    this.#report = surroundings.report;
    this.source = sourceOf(config, gateway, surroundings, deviceMemory);
    this.allocator = new EntryAllocator({ name, source: this.source, devices, memoryBytes, deviceMemory });
    this.controller = new SleepController(this.allocator, {
      name,
      devices,
      weightTags: [],
      whenAsleep: "wake",
      holdDeadlineMs: gateway.holdDeadlineMs,
      drainDeadlineMs: gateway.drainDeadlineMs,
      // The pool may end the program where its memory does not fit the host budget: starting it again loads everything.
      ...(this.source.canStop && { reload: () => undefined }),
    });
    this.source.onEnd = (reason) => void this.#noteEnd(reason);
  }

  /** Makes the pool take it for asleep: its first request starts it. */
  async begin(): Promise<void> {
    await this.controller.sleep({ level: this.source.canStop ? 2 : 1, reason: "pool" });
  }

  /** Refuses its requests, and ends it where the gateway has started it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.source.onEnd = undefined;
    await this.controller.close();
    await this.allocator.noteEnd();
    await this.source.stop();
  }

  /** Its memory is gone with its process: what was awake is asleep now, and the next request starts it again. */
  async #noteEnd(reason: string): Promise<void> {
    await this.allocator.noteEnd();
    try {
      const onlyIf = () => !this.allocator.isRunning && this.controller.status.state !== "asleep";
      await this.controller.sleep({ level: 2, reason: "pool", mode: "abort", onlyIf });
    } catch (error) {
      // It is asleep already, runs again, or the gateway is closing.
      if (!(error instanceof CamemError)) throw error;
      if (!["STATE_CONFLICT", "CLOSED"].includes(error.code))
        this.#report(`${this.config.name}: ${reason}: ${error.message}`);
    }
  }
}

/** The variable by which a gateway recognises the engines of one that was killed: no two gateways have one address. */
export const gatewayVariable = "CAMEM_GATEWAY";

export function markOf({ hostname, port }: GatewayConfig["listen"]): string {
  return `${hostname}:${port}`;
}

function sourceOf(
  config: EngineConfig,
  { stopDeadlineMs, listen }: GatewayConfig,
  surroundings: GatewaySurroundings,
  deviceMemory: DeviceMemory,
): EngineSource {
  const { origin } = config;
  if (origin.kind === "command") {
    const environment = { [gatewayVariable]: markOf(listen) };
    return new CommandEngine({ ...surroundings, config, origin, stopDeadlineMs, environment });
  }
  if (origin.kind === "socket") return new SocketEngine(config, origin, surroundings.connectSocket);
  const freeBytes = (device: number) => deviceMemory(device)?.freeBytes ?? Number.MAX_SAFE_INTEGER;
  return new HttpEngine(config, origin, freeBytes);
}
