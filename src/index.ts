/// <reference lib="esnext.disposable" preserve="true" />

/** Sleep mode for Huawei Ascend NPUs. Importing this module opens no library and reads no configuration. */

export { CaMemAllocator, type HostUsage, type MallocOptions, type TagUsage } from "./allocator.ts";
export {
  type LoadSafetensorsOptions,
  loadSafetensors,
  type Tensor,
  type TensorDtype,
} from "./checkpoint/safetensors.ts";
export { CamemError, type CamemErrorCode, type CamemErrorDetails, errorCodes } from "./errors.ts";
export type { Backup, BufferState, DeviceBuffer, DevicePointer } from "./memory/buffer.ts";
export type { MemoryPool } from "./memory/pool.ts";
export type { AllocatorOptions } from "./options/config.ts";
export type { SleepLevel } from "./policy/levels.ts";
export type { TagAction, TagPolicy } from "./policy/tags.ts";
export type { SleepTransition, TransitionHooks, WakeTransition } from "./transition/hooks.ts";
export type { TagPlan, TransitionPlan } from "./transition/preflight.ts";
export type { TransitionControl, TransitionDurations, TransitionProgress } from "./transition/progress.ts";
export type {
  PrepareReport,
  SleepOptions,
  SleepReport,
  WakeOptions,
  WakeReport,
} from "./transition/transitions.ts";
