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
  /** Page-locked host memory that holds its content. */
  readonly hostBytes: number;
  /** Bytes of a spill file that hold its content. */
  readonly spilledBytes: number;
  /** Bytes of a checkpoint that are its content. */
  readonly checkpointBytes: number;
  readonly device: number;
  readonly tag: string;
  readonly state: SegmentState;
  /** Owned by a plan or a release that is running. */
  readonly moving: boolean;
  /** Asleep, yet it holds device memory: an earlier plan could not give it back, or could not map it again. */
  readonly unreleased: boolean;
  /** Awake, and its backup is the same as its content: to sleep, it is only unmapped. */
  readonly clean: boolean;
}

export type StepAction = "offload" | "discard" | "restore" | "remap" | "release";

export interface Step {
  readonly segment: Segment;
  readonly action: StepAction;
  /** Its tag is declared immutable: a wake-up keeps the backup. */
  readonly immutable: boolean;
  /** Its new backup goes to the spill folder. */
  readonly spill: boolean;
}

/** What is to become of a tag's memory. */
export interface TagTreatment {
  readonly action: TagAction;
  readonly immutable: boolean;
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
      return segment.unreleased ? "release" : undefined;
  }
}

/** The steps that put memory to sleep; `treatmentOf` says what is to become of each tag. */
export function planSleep(segments: readonly Segment[], treatmentOf: (tag: string) => TagTreatment): Step[] {
  const steps: Step[] = [];
  for (const segment of segments) {
    const { action: wanted, immutable } = treatmentOf(segment.tag);
    const action = sleepStep(segment, wanted);
    if (action !== undefined) steps.push({ segment, action, immutable, spill: false });
  }
  return steps;
}

/** The steps that wake the named tags, or without names everything. */
export function planWake(
  segments: readonly Segment[],
  tags: readonly string[] | undefined,
  isImmutable: (tag: string) => boolean,
): Step[] {
  const asleep = segments.filter(
    ({ state, tag }) => state !== "mapped" && (tags === undefined || tags.includes(tag)),
  );
  return asleep.map((segment) => ({
    segment,
    action: segment.state === "offloaded" ? "restore" : "remap",
    immutable: isImmutable(segment.tag),
    spill: false,
  }));
}

/** The bytes of the steps with the given action. */
export function bytesOf(steps: readonly Step[], wanted: StepAction): number {
  return steps.reduce((sum, { action, segment }) => sum + (action === wanted ? segment.sizeBytes : 0), 0);
}

/** Bytes of the new backup that a step makes; 0 where it makes none. */
export function newBackupBytes({ action, segment }: Step): number {
  const copies = action === "offload" || (action === "release" && segment.state === "offloaded");
  const has = segment.clean || segment.hostBytes + segment.spilledBytes + segment.checkpointBytes > 0;
  return copies && !has ? segment.sizeBytes : 0;
}

/** Bytes of new backups in page-locked host memory, and in the spill folder. */
export function backupBytesNeeded(steps: readonly Step[]): { hostBytes: number; spillBytes: number } {
  const needed = { hostBytes: 0, spillBytes: 0 };
  for (const step of steps) needed[step.spill ? "spillBytes" : "hostBytes"] += newBackupBytes(step);
  return needed;
}

/** The same steps, with those backups in the spill folder that `hostBytes` has no room for. */
export function spillBeyond(steps: readonly Step[], hostBytes: number): Step[] {
  let leftBytes = hostBytes;
  return steps.map((step) => {
    const bytes = newBackupBytes(step);
    if (bytes > leftBytes) return { ...step, spill: true };
    leftBytes -= bytes;
    return step;
  });
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
