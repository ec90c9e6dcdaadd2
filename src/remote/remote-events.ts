import type { CamemError } from "../errors.ts";
import type { EngineStatus } from "./engine-status.ts";

/**
 * What happens to an engine in another process:
 *
 * - `touched`: calls found memory asleep. With `onTouch` `hold` they wait until somebody wakes the engine.
 * - `woke`: the engine's library has woken everything by itself, or failed to.
 * - `changed`: the gate closed or opened, or calls began or ended to wait at it.
 * - `gone`: the engine has ended, has let go of its devices, or does not answer. No event follows.
 */
export type RemoteEvent =
  | {
      /** What has happened. */
      readonly type: "touched";
      /** The state of the engine after it. */
      readonly status: EngineStatus;
    }
  | {
      /** What has happened. */
      readonly type: "woke";
      /** The state of the engine after it. */
      readonly status: EngineStatus;
    }
  | {
      /** What has happened. */
      readonly type: "changed";
      /** The state of the engine after it. */
      readonly status: EngineStatus;
    }
  | {
      /** What has happened. */
      readonly type: "gone";
      /** The error that every call throws from now on. */
      readonly error: CamemError;
    };
