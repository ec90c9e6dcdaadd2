/** Pure planning: a snapshot of the table of segments goes in, the steps of one sleep or wake-up come out. */

import type { TagAction } from "./tags.ts";

export type SegmentState = "mapped" | "offloaded" | "discarded";

/** One segment as planning sees it. */
export interface Segment {
  readonly address: number;
  readonly segmentId: number;
  readonly sizeBytes: number;
  /** Device memory that it holds now. */
  readonly committedBytes: number;
  /** Page-locked host memory that it holds now. */
  readonly hostBytes: number;
  readonly device: number;
  readonly tag: string;
  readonly state: SegmentState;
  /** Owned by a plan or a release that is running. */
  readonly moving: boolean;
  /** Asleep, yet it holds device memory: an earlier plan could not give it back, or could not map it again. */
  readonly unreleased: boolean;
}

export type StepAction = "offload" | "discard" | "restore" | "remap" | "release" | "drop_backup";

export interface Step {
  readonly segment: Segment;
  readonly action: StepAction;
}

/** What a sleep would do to one segment, or undefined where it has nothing to do. */
function sleepStep(segment: Segment, wanted: TagAction): StepAction | undefined {
  if (wanted === "keep") return undefined;
  switch (segment.state) {
    case "mapped":
      return wanted;
    case "offloaded":
      // A deeper sleep drops the backup that a lighter one made.
      if (wanted === "discard") return "discard";
      return segment.unreleased ? "release" : undefined;
    case "discarded":
      // What an earlier plan could not give back: device memory, or the host memory of a backup that it dropped.
      return segment.unreleased || segment.hostBytes > 0 ? "release" : undefined;
  }
}

/** The steps that put memory to sleep; `actionOf` says what is to become of each tag. */
export function planSleep(segments: readonly Segment[], actionOf: (tag: string) => TagAction): Step[] {
  return segments.flatMap((segment) => {
    const action = sleepStep(segment, actionOf(segment.tag));
    return action === undefined ? [] : [{ segment, action }];
  });
}

/** What a wake-up would do to one segment, or undefined where it has nothing to do. */
function wakeStep(segment: Segment): StepAction | undefined {
  switch (segment.state) {
    case "offloaded":
      return "restore";
    case "discarded":
      return "remap";
    case "mapped":
      // An earlier wake-up could not give its host memory back.
      return segment.hostBytes > 0 ? "drop_backup" : undefined;
  }
}

/** The steps that wake the named tags, or without names everything. */
export function planWake(segments: readonly Segment[], tags: readonly string[] | undefined): Step[] {
  return segments.flatMap((segment) => {
    const action = tags === undefined || tags.includes(segment.tag) ? wakeStep(segment) : undefined;
    return action === undefined ? [] : [{ segment, action }];
  });
}

/** The bytes of the steps with one of the given actions. */
export function bytesOf(steps: readonly Step[], ...actions: readonly StepAction[]): number {
  return steps.reduce((sum, step) => sum + (actions.includes(step.action) ? step.segment.sizeBytes : 0), 0);
}

/** Page-locked host memory that the steps take beyond what their segments hold. */
export function hostBytesNeeded(steps: readonly Step[]): number {
  const saved = steps.filter(
    ({ action, segment }) => action === "offload" || (action === "release" && segment.state === "offloaded"),
  );
  return saved.reduce((sum, { segment }) => sum + segment.sizeBytes - segment.hostBytes, 0);
}

/** Device memory that the steps of a wake-up take, by device; none for a sleep. */
export function deviceBytesNeeded(steps: readonly Step[]): Map<number, number> {
  const needed = new Map<number, number>();
  for (const { action, segment } of steps) {
    if (action !== "restore" && action !== "remap") continue;
    const bytes = segment.sizeBytes - segment.committedBytes;
    needed.set(segment.device, (needed.get(segment.device) ?? 0) + bytes);
  }
  return needed;
}

/** The tags of `segments`, each once, in the order of their first segment. */
export function tagsOf(segments: readonly Segment[]): string[] {
  return [...new Set(segments.map((segment) => segment.tag))];
}
