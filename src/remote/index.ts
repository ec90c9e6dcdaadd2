/** An allocator for the memory of an engine in another process. */

export type { EngineSegmentStatus, EngineStatus, OnTouch, PinReason, WrittenBy } from "./engine-status.ts";
export { RemoteAllocator, type RemoteOptions, type RemoteTarget } from "./remote-allocator.ts";
export type { RemoteEvent } from "./remote-events.ts";
