/** The memory of an engine that may not be connected yet, or no longer. */

import { CamemError } from "../errors.ts";
import type { HostUsage, TagUsage } from "../memory/usage.ts";
import type { ControlledAllocator } from "../server/engine/engine-tags.ts";
import { emptyPlan, noHostUsage } from "./no-memory.ts";
import { wakeReport } from "./reports.ts";

/** The connection to the memory of a running engine. */
export interface EngineConnection extends ControlledAllocator {
  hostUsage(): HostUsage;
  /** Ends the connection; the engine and its memory stay as they are. */
  close(): Promise<void>;
  /** Resolves when the engine has ended; absent where the connection does not notice it. */
  readonly gone?: Promise<unknown>;
}

/** Passes every call on to the connection. Without one the engine has no memory, and cannot sleep. */
export class AttachableAllocator implements ControlledAllocator {
  readonly #engine: string;
  #connection: EngineConnection | undefined;

  constructor(engine: string) {
    this.#engine = engine;
  }

  get isAttached(): boolean {
    return this.#connection !== undefined;
  }

  attach(connection: EngineConnection): void {
    this.#connection = connection;
  }

  /** Returns the connection, which the caller closes. */
  detach(): EngineConnection | undefined {
    const connection = this.#connection;
    this.#connection = undefined;
    return connection;
  }

  get device(): number {
    return this.#connection?.device ?? 0;
  }

  usage(): Record<string, TagUsage> {
    return this.#connection?.usage() ?? {};
  }

  hostUsage(): HostUsage {
    return this.#connection?.hostUsage() ?? noHostUsage;
  }

  readonly plan: ControlledAllocator["plan"] = (operation: "sleep" | "wake", options = {}) =>
    this.#connection?.plan(operation as "sleep", options) ?? emptyPlan;

  readonly sleep: ControlledAllocator["sleep"] = async (options) => this.#required().sleep(options);

  /** An engine whose process has ended has nothing to wake: another may start with all of its memory. */
  readonly wakeUp: ControlledAllocator["wakeUp"] = async (options) =>
    this.#connection?.wakeUp(options) ?? wakeReport(0, true);

  readonly memGetInfo: ControlledAllocator["memGetInfo"] = (device) => this.#required().memGetInfo(device);

  readonly defineTag: ControlledAllocator["defineTag"] = (name, policy) =>
    this.#connection?.defineTag(name, policy);

  #required(): EngineConnection {
    if (this.#connection) return this.#connection;
    throw new CamemError(
      "ENGINE_UNAVAILABLE",
      `the engine ${this.#engine} has used no device memory yet, so it cannot sleep; try again once it has loaded its model`,
      { retryAfterSeconds: 5 },
    );
  }
}
