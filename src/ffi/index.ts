/** The shim's functions, by concern. Only this folder knows the JavaScript runtime. */

export {
  abandonAttachment,
  attach,
  detach,
  loadReport,
  memoryInfo,
  runtimeInfo,
  symbolList,
} from "./attachment.ts";
export { type CheckpointExtent, openCheckpoint, useCheckpoint } from "./checkpoints.ts";
export { hostInfo, retainHost, setSpillFolder } from "./host.ts";
export { aclLibraryFor, emulatorLibraryPath, shimPath } from "./library.ts";
export {
  awaitPlan,
  cancelPlan,
  type PlanProgress,
  planFailure,
  pollPlan,
  type Refusal,
  submitPlan,
  submitPreparation,
} from "./plans.ts";
export {
  allocateSegment,
  fillSegment,
  freeSegment,
  readBackup,
  readSegment,
  type SegmentName,
  type SegmentSnapshot,
  segmentInfo,
  writeSegment,
} from "./segments.ts";
export { type Failure, statusError } from "./status.ts";
export { longestTagBytes, Phase, SegmentState, Status } from "./symbols.gen.ts";
export { type PlanBasis, segmentGroups, snapshot, type TagUsage, tagPolicies, usage } from "./table.ts";
export {
  enterRegion,
  internTag,
  isTag,
  leaveRegion,
  setTagImmutable,
  setTagPolicy,
  tagName,
  tagPolicy,
} from "./tags.ts";
