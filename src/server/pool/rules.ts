/**
 * Who may put which engine to sleep, and who may wake it. The pool asks these rules when it plans a switch, and again when the turn
 * of each sleep and wake-up has come: operators, idleness and clients act in between. `docs/promises.md` has the rules as a table.
 */

import type { SleepController } from "../engine/controller.ts";
import type { EngineStatus } from "../engine/events.ts";

/**
 * What the pool does with requests for an engine. `serve`: passes them to its controller, which admits, refuses or wakes. `wait`:
 * keeps them until something changes. `wake`: switches to the engine.
 */
export type RequestRule = "serve" | "wait" | "wake";

/** The rule for requests of an engine that is not switching. */
export function requestRule(
  { status, disposition }: Pick<SleepController, "status" | "disposition">,
  wakesOperatorSleep: boolean,
): RequestRule {
  if (isMoving(status)) return "wait";
  if (mayWakeForRequest(status, wakesOperatorSleep)) return "wake";
  // The pool keeps what the controller would hold: after a pause or an operator's sleep the pool must still wake the engine.
  return disposition === "hold" ? "wait" : "serve";
}

/** True once the engine's controller is closed: nothing moves its memory, and its requests are refused. */
export function isClosed({ state }: EngineStatus): boolean {
  return state === "closed";
}

/** True while memory of the engine moves or is about to. */
export function isMoving({ state }: EngineStatus): boolean {
  return state === "falling-asleep" || state === "waking";
}

/** A request wakes an engine that is asleep, unless an operator has paused it or put it to sleep. */
export function mayWakeForRequest(
  { state, paused, reason }: EngineStatus,
  wakesOperatorSleep: boolean,
): boolean {
  return state === "asleep" && !paused && (reason !== "operator" || wakesOperatorSleep);
}

/** An engine makes room while it is awake: never while it is paused, moving or waiting for weights. */
export function mayMakeRoom({ state }: EngineStatus): boolean {
  return state === "awake";
}

/** An engine that is asleep gives back the device memory that a failed release has left, whoever put it to sleep. */
export function mayGiveBack({ state }: EngineStatus): boolean {
  return state === "asleep";
}

/** After a failed switch, the pool wakes the engines that made room unless somebody else now wants them asleep or paused. */
export function mayRestore({ state, paused, reason }: EngineStatus): boolean {
  return state === "asleep" && !paused && reason === "pool";
}
