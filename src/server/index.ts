/// <reference lib="esnext.disposable" preserve="true" />

/** Sleep mode in a serving stack. Importing this module opens no library and starts nothing. */

export type { Clock } from "../async/clock.ts";
export type { Duration } from "../options/durations.ts";
export type { CheckpointResult, Lease } from "./engine/admission.ts";
export {
  type DeviceMemory,
  type EngineSleepResult,
  type EngineWakeResult,
  SleepController,
} from "./engine/controller.ts";
export type {
  AdmitOptions,
  ControllerOptions,
  EngineSleepOptions,
  EngineWakeOptions,
  PauseOptions,
  ReloadContext,
  WhenAsleep,
} from "./engine/controller-options.ts";
export type { ControlledAllocator } from "./engine/engine-tags.ts";
export type {
  EngineEvent,
  EngineListener,
  EngineState,
  EngineStatus,
  FailureSummary,
  InFlightMode,
  RequestCounts,
  RequestsEvent,
  SleepReason,
  StateEvent,
  TransitionEndedEvent,
  TransitionIdentity,
  TransitionProgressEvent,
  TransitionStartedEvent,
} from "./engine/events.ts";
export { type IdleOptions, type IdleRung, IdleSleep } from "./engine/idle-sleep.ts";
export type { AccessOptions, ServerInfo } from "./http/access.ts";
export { type AdmitRequestOptions, admitRequest, leasedStream } from "./http/admit-request.ts";
export { type AdminHandler, createHandler, type HandlerOptions } from "./http/handler.ts";
export type { EngineGroup, QueueCounts } from "./pool/engine-group.ts";
export { ModelPool, type PoolOptions } from "./pool/model-pool.ts";
