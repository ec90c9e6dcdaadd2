/// <reference lib="esnext.disposable" preserve="true" />

/** Sleep mode in a serving stack. Importing this module opens no library and starts nothing. */

export type { AccessOptions, ServerInfo } from "./access.ts";
export type { Clock } from "./clock.ts";
export {
  type DeviceMemory,
  type EngineSleepResult,
  type EngineWakeResult,
  SleepController,
} from "./controller.ts";
export type {
  AdmitOptions,
  ControllerOptions,
  EngineSleepOptions,
  EngineWakeOptions,
  PauseOptions,
  ReloadContext,
  WhenAsleep,
} from "./controller-options.ts";
export type { Duration } from "./durations.ts";
export type { EngineGroup, QueueCounts } from "./engine-group.ts";
export type { ControlledAllocator } from "./engine-tags.ts";
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
} from "./events.ts";
export type { CheckpointResult, Lease } from "./gate.ts";
export { type AdminHandler, createHandler, type HandlerOptions } from "./http.ts";
export { type IdleOptions, type IdleRung, IdleSleep } from "./idle.ts";
export { type AdmitRequestOptions, admitRequest, leasedStream } from "./inference.ts";
export { ModelPool, type PoolOptions } from "./model-pool.ts";
