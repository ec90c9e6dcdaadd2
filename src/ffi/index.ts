/** The shim's functions, by concern. Only this folder knows the JavaScript runtime. */

export {
  abandonAttachment,
  attach,
  detach,
  endOwnAttachments,
  loadReport,
  symbolList,
} from "./attachment.ts";
export { type CheckpointExtent, openCheckpoint, useCheckpoint } from "./checkpoints.ts";
export { currentRuntime } from "./current-runtime.ts";
export type { EngineInfo, EngineSegment } from "./engine.ts";
export { aclLibraryFor } from "./library.ts";
export { emulatorLibraryPath, shimPath } from "./library-files.ts";
export { cancelLoad, LoadPieces, pollLoad, startLoad } from "./loads.ts";
export { localNative, type Native } from "./native.ts";
export type { PlanOptions, PlanOrder, PlanProgress, Refusal } from "./plans.ts";
export { connectEngine, type EngineConnection } from "./remote.ts";
export {
  allocateSegment,
  fillSegment,
  freeSegment,
  readBackup,
  readSegment,
  type SegmentName,
  type SegmentSnapshot,
  writeSegment,
} from "./segments.ts";
export { type Failure, statusError } from "./status.ts";
export {
  GateState,
  longestTagBytes,
  OnTouch,
  Phase,
  Pin,
  SegmentState,
  Status,
  Written,
} from "./symbols.gen.ts";
export type { PlanBasis, TagUsage } from "./table.ts";
export { enterRegion, leaveRegion } from "./tags.ts";
export { greetingBytes, readWatchReply, watchReplyBytes, watchRequest } from "./watch.ts";
