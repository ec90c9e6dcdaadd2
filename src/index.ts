/// <reference lib="esnext.disposable" preserve="true" />

/** Sleep mode for Huawei Ascend NPUs. Importing this module opens no library and reads no configuration. */

export { CaMemAllocator, type HostUsage, type MallocOptions, type TagUsage } from "./allocator.ts";
export type { Backup, BufferState, DeviceBuffer, DevicePointer } from "./buffer.ts";
export type { AllocatorOptions } from "./config.ts";
export { CamemError, type CamemErrorCode, errorCodes } from "./errors.ts";
export type { TransitionControl, TransitionDurations, TransitionProgress } from "./execute.ts";
export type { SleepTransition, TransitionHooks, WakeTransition } from "./hooks.ts";
export type { SleepLevel } from "./levels.ts";
export type { MemoryPool } from "./pool.ts";
export type { TagPlan, TransitionPlan } from "./preflight.ts";
export {
  type LoadSafetensorsOptions,
  loadSafetensors,
  type Tensor,
  type TensorDtype,
} from "./safetensors.ts";
export type { TagAction, TagPolicy } from "./tags.ts";
export type {
  PrepareReport,
  SleepOptions,
  SleepReport,
  WakeOptions,
  WakeReport,
} from "./transitions.ts";
