import { CamemError, formatValue } from "../../errors.ts";
import { custom } from "../../options/schemas.ts";
import { mismatchText } from "../../options/validate.ts";
import { SleepController } from "../engine/controller.ts";
import type { AdmitOptions, EngineWakeOptions } from "../engine/controller-options.ts";
import type { EngineListener } from "../engine/events.ts";
import type { Lease } from "../engine/lease.ts";
import type { EngineWakeResult } from "../engine/results.ts";

/** Requests that have not reached their engine. */
export interface QueueCounts {
  /** Requests that wait for their engine. */
  readonly waiting: number;
  /** Refused since the group was made, including requests whose deadline passed while they waited. */
  readonly refusedTotal: number;
}

/** Engines by name, as the HTTP layer uses them: a pool, or one controller. */
export interface EngineGroup {
  /** The controllers by the names of their engines. */
  readonly engines: ReadonlyMap<string, SleepController>;
  /** The name of the engine behind another name that requests use; undefined for one that it does not know. */
  nameOf?(model: string): string | undefined;
  /** Admits a request for `model`, as {@link SleepController.admit}. */
  admit(model: string, signal?: AbortSignal, options?: AdmitOptions): Promise<Lease>;
  /** Wakes the engine of `model`, as {@link SleepController.wakeUp}. */
  wakeUp(model: string, options?: EngineWakeOptions): Promise<EngineWakeResult>;
  /** Aborts the requests of `model`, as {@link SleepController.abortRequests}, and refuses those that wait in the group. */
  abortRequests(model: string): number;
  /** Calls `listener` for every event of every engine. Returns a function that unsubscribes it. */
  subscribe(listener: EngineListener): () => void;
  /** Requests that the group itself holds or has refused; the engine's own status does not count them. */
  queueOf(model: string): QueueCounts;
}

function isGroup(value: unknown): value is EngineGroup {
  return typeof value === "object" && value !== null && (value as EngineGroup).engines instanceof Map;
}

/** One engine, or a group of engines. */
export const EngineOrGroup = custom<SleepController | EngineGroup>(
  "a SleepController or a ModelPool",
  (value) => value instanceof SleepController || isGroup(value),
);

/** @throws CamemError `INVALID_CONFIG` for anything else */
export function groupOf(engine: SleepController | EngineGroup): EngineGroup {
  if (engine instanceof SleepController)
    return {
      engines: new Map([[engine.name, engine]]),
      admit: (_model, signal, options) => engine.admit(signal, options),
      wakeUp: (_model, options) => engine.wakeUp(options),
      abortRequests: () => engine.abortRequests(),
      subscribe: (listener) => engine.subscribe(listener),
      queueOf: () => ({ waiting: 0, refusedTotal: 0 }),
    };
  if (isGroup(engine)) return engine;
  throw new CamemError("INVALID_CONFIG", mismatchText("engine", engine, EngineOrGroup), {
    property: "engine",
  });
}

/**
 * The engine of `model`. The name may be left out when there is only one engine.
 *
 * @throws CamemError `UNKNOWN_MODEL`, or `INVALID_ARGUMENT` when the name is missing
 */
export function engineOf(group: EngineGroup, model: string | undefined): SleepController {
  const { engines } = group;
  const only = engines.size === 1 ? [...engines.values()][0] : undefined;
  const engine = model === undefined ? only : engines.get(group.nameOf?.(model) ?? model);
  if (engine) return engine;
  const names = [...engines.keys()].join(", ");
  if (model === undefined)
    throw new CamemError("INVALID_ARGUMENT", `model is missing; it must be one of ${names}`, {
      property: "model",
    });
  throw new CamemError("UNKNOWN_MODEL", `there is no model ${formatValue(model)}; the models are ${names}`, {
    property: "model",
  });
}
