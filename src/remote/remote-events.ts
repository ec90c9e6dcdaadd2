import type { CamemError } from "../errors.ts";
import type { EngineStatus } from "./engine-status.ts";

/**
 * What happens to an engine in another process:
 *
 * - `touched`: calls found memory asleep. With `onTouch` `hold` they wait until somebody wakes the engine.
 * - `woke`: the engine's library has woken everything by itself, or failed to.
 * - `changed`: the gate closed or opened, or calls began or ended to wait at it.
 * - `gone`: the engine has ended or does not answer. No event follows.
 */
export type RemoteEvent =
  | { readonly type: "touched"; readonly status: EngineStatus }
  | { readonly type: "woke"; readonly status: EngineStatus }
  | { readonly type: "changed"; readonly status: EngineStatus }
  | { readonly type: "gone"; readonly error: CamemError };
