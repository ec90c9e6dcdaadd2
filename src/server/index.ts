/// <reference lib="esnext.disposable" preserve="true" />

/**
 * Sleep mode in a serving stack. Importing this module opens no library and starts nothing.
 *
 * @module camem/server
 */

export type { Clock } from "../async/clock.ts";
export { type Duration, parseDuration } from "../options/durations.ts";
export { SleepController } from "./engine/controller.ts";
export type {
  AdmitOptions,
  ControllerOptions,
  EnginePlanOptions,
  EngineSleepOptions,
  EngineWakeOptions,
  InFlightMode,
  PauseOptions,
  ReloadContext,
  ReloadOptions,
  SleepReason,
  WhenAsleep,
} from "./engine/controller-options.ts";
export type { ControlledAllocator } from "./engine/engine-tags.ts";
export type {
  EngineEvent,
  EngineListener,
  EngineState,
  EngineStatus,
  FailureSummary,
  RequestCounts,
  RequestsEvent,
  StateEvent,
  TransitionEndedEvent,
  TransitionIdentity,
  TransitionProgressEvent,
  TransitionStartedEvent,
} from "./engine/events.ts";
export { type IdleOptions, type IdleRung, IdleSleep } from "./engine/idle-sleep.ts";
export type { CheckpointResult, Lease } from "./engine/lease.ts";
export type { DeviceMemory, EngineSleepResult, EngineWakeResult } from "./engine/results.ts";
export type { AccessOptions } from "./http/access.ts";
export { type AdmitRequestOptions, admitRequest } from "./http/admit-request.ts";
export type {
  AbortRequestContext,
  GenerateForHealthContext,
  HandlerHookContext,
} from "./http/engine-hooks.ts";
export { type AdminHandler, createHandler, type HandlerOptions } from "./http/handler.ts";
export { leasedStream } from "./http/leased-stream.ts";
export type { ConnectionInfo, ListeningServer, ServerInfo } from "./http/server-info.ts";
export type { EngineGroup, QueueCounts } from "./pool/engine-group.ts";
export { ModelPool, type ModelPoolOptions } from "./pool/model-pool.ts";
