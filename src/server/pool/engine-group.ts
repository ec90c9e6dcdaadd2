import { CamemError, formatValue } from "../../errors.ts";
import type { Lease } from "../engine/admission.ts";
import { type EngineWakeResult, SleepController } from "../engine/controller.ts";
import type { AdmitOptions, EngineWakeOptions } from "../engine/controller-options.ts";
import type { EngineListener } from "../engine/events.ts";

/** Requests that have not reached their engine. */
export interface QueueCounts {
  readonly waiting: number;
  /** Refused since the group was made, those whose deadline passed while they waited included. */
  readonly refusedTotal: number;
}

/** Engines by name, as HTTP sees them: a pool, or one controller. */
export interface EngineGroup {
  readonly engines: ReadonlyMap<string, SleepController>;
  admit(model: string, signal?: AbortSignal, options?: AdmitOptions): Promise<Lease>;
  wakeUp(model: string, options?: EngineWakeOptions): Promise<EngineWakeResult>;
  subscribe(listener: EngineListener): () => void;
  /** What the group itself holds and refuses, beyond what the engine's own status tells. */
  queueOf(model: string): QueueCounts;
}

/** @throws CamemError `INVALID_CONFIG` for anything else */
export function groupOf(engine: SleepController | EngineGroup): EngineGroup {
  if (engine instanceof SleepController)
    return {
      engines: new Map([[engine.name, engine]]),
      admit: (_model, signal, options) => engine.admit(signal, options),
      wakeUp: (_model, options) => engine.wakeUp(options),
      subscribe: (listener) => engine.subscribe(listener),
      queueOf: () => ({ waiting: 0, refusedTotal: 0 }),
    };
  if (typeof engine === "object" && engine !== null && engine.engines instanceof Map) return engine;
  throw new CamemError(
    "INVALID_CONFIG",
    `engine is ${formatValue(engine)}; it must be a SleepController or a ModelPool`,
  );
}

/**
 * The engine that `model` names; where there is but one, it need not be named.
 *
 * @throws CamemError `UNKNOWN_MODEL`, or `INVALID_ARGUMENT` where it has to be named
 */
export function engineOf({ engines }: EngineGroup, model: string | undefined): SleepController {
  const only = engines.size === 1 ? [...engines.values()][0] : undefined;
  const engine = model === undefined ? only : engines.get(model);
  if (engine) return engine;
  const names = [...engines.keys()].join(", ");
  if (model === undefined)
    throw new CamemError(
      "INVALID_ARGUMENT",
      `say which model, such as ?model=${[...engines.keys()][0]}; there are ${names}`,
    );
  throw new CamemError("UNKNOWN_MODEL", `there is no model ${formatValue(model)}; there are ${names}`);
}
