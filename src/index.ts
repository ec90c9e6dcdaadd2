/// <reference lib="esnext.disposable" preserve="true" />

/**
 * Sleep mode for Huawei Ascend NPUs. Importing this module opens no library and reads no configuration.
 *
 * @module camem
 */

export { CaMemAllocator } from "./allocator.ts";
export type { TensorDtype } from "./checkpoint/header.ts";
export type { LoadSafetensorsOptions } from "./checkpoint/load-options.ts";
export { loadSafetensors } from "./checkpoint/safetensors.ts";
export type { Tensor } from "./checkpoint/tensor.ts";
export { CamemError, type CamemErrorCode, type CamemErrorDetails, errorCodes } from "./errors.ts";
export type { Backup } from "./memory/backup.ts";
export type { BufferState, DeviceBuffer, DevicePointer } from "./memory/buffer.ts";
export type { HostBudget } from "./memory/host-budget.ts";
export type { MallocOptions, MemoryPoolOptions } from "./memory/options.ts";
export type { MemoryPool } from "./memory/pool.ts";
export type { HostUsage, TagUsage } from "./memory/usage.ts";
export type { AllocatorOptions } from "./options/allocator-options.ts";
export { formatSize, parseSize } from "./options/sizes.ts";
export type {
  SleepLevel,
  SleepSelection,
  TagAction,
  TagPolicy,
  TagPolicyChanges,
} from "./policy/tag-policies.ts";
export {
  type EngineSegmentStatus,
  type EngineStatus,
  type OnTouch,
  type PinReason,
  RemoteAllocator,
  type RemoteEvent,
  type RemoteOptions,
  type RemoteTarget,
  type WrittenBy,
} from "./remote/index.ts";
export type { PendingWake, SleepTransition, TransitionHooks, WakeTransition } from "./transition/hooks.ts";
export type { SleepOptions, WakeOptions, WakeSelection } from "./transition/options.ts";
export type { TagPlan, TransitionPlan } from "./transition/preflight.ts";
export type { TransitionControl, TransitionDurations, TransitionProgress } from "./transition/progress.ts";
export type { PrepareReport, SleepReport, WakeReport } from "./transition/reports.ts";
export type { OrderedMemory } from "./transition/wake-order.ts";
export { WakeUp } from "./transition/wake-up.ts";
