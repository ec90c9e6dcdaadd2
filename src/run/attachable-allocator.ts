/** The memory of an engine that may not be connected yet, or no longer. */

import { CamemError } from "../errors.ts";
import type { HostBudget } from "../memory/host-budget.ts";
import type { HostUsage, TagUsage } from "../memory/usage.ts";
import type { ControlledAllocator } from "../server/engine/engine-tags.ts";
import type { TransitionPlan } from "../transition/preflight.ts";

/** The connection to the memory of a running engine. */
export interface EngineConnection extends ControlledAllocator {
  hostUsage(): HostUsage;
  /** Ends the connection; the engine and its memory stay as they are. */
  close(): Promise<void>;
}

const noBudget: HostBudget = { sizeBytes: null, source: "unknown", path: null };

const nothing: TransitionPlan = {
  tags: {},
  devices: [],
  freed: [],
  host: { neededBytes: 0, freeBytes: null, budget: noBudget },
  spill: null,
  fits: true,
};

const noHostUsage: HostUsage = {
  pageLockedBytes: 0,
  freeBytes: 0,
  preparedBytes: 0,
  stagingBytes: 0,
  pageableBytes: 0,
  budget: noBudget,
};

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
    this.#connection?.plan(operation as "sleep", options) ?? nothing;

  readonly sleep: ControlledAllocator["sleep"] = async (options) => this.#required().sleep(options);

  readonly wakeUp: ControlledAllocator["wakeUp"] = async (options) => this.#required().wakeUp(options);

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
