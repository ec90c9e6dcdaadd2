/** Pure planning: a summary of the table of segments goes in, the steps of one sleep or wake-up come out. */

import type { TagAction } from "./tags.ts";

export type SegmentState = "mapped" | "offloaded" | "discarded";

/** Segments that are alike in all that decides what becomes of them. */
export interface Portion {
  readonly segments: number;
  /** Bytes of each of them. */
  readonly segmentBytes: number;
  /** Bytes of all of them. */
  readonly sizeBytes: number;
  /** Device memory that they hold now. */
  readonly committedBytes: number;
  /** Page-locked host memory that holds their content. */
  readonly hostBytes: number;
  /** Bytes of checkpoints and of the spill folder that hold their content. */
  readonly fileBytes: number;
  readonly device: number;
  readonly tag: string;
  readonly tagId: number;
  readonly state: SegmentState;
  /** Owned by a plan or a release that is running. */
  readonly moving: boolean;
  /** Asleep, yet they hold device memory: an earlier plan could not give it back, or could not map it again. */
  readonly unreleased: boolean;
  /** Awake, and their backups are the same as their content: to sleep, they are only unmapped. */
  readonly clean: boolean;
  readonly backedUp: boolean;
}

export type StepAction = "offload" | "discard" | "restore" | "remap" | "release";

export interface Step {
  readonly portion: Portion;
  readonly action: StepAction;
  /** The tag is declared immutable: a wake-up keeps the backups. */
  readonly immutable: boolean;
  /** Of new backups, how many go to the spill folder. */
  readonly spilledSegments: number;
}

/** What is to become of a tag's memory. */
export interface TagTreatment {
  readonly action: TagAction;
  readonly immutable: boolean;
}

/** What a sleep would do to a portion, or undefined where it has nothing to do. */
function sleepAction(portion: Portion, wanted: TagAction): StepAction | undefined {
  if (wanted === "keep") return undefined;
  switch (portion.state) {
    case "mapped":
      return wanted;
    case "offloaded":
      // A deeper sleep drops the backup that a lighter one made.
      if (wanted === "discard") return "discard";
      return portion.unreleased ? "release" : undefined;
    case "discarded":
      return portion.unreleased ? "release" : undefined;
  }
}

/** The steps that put memory to sleep; `treatmentOf` says what is to become of each tag. */
export function planSleep(portions: readonly Portion[], treatmentOf: (tag: string) => TagTreatment): Step[] {
  const steps: Step[] = [];
  for (const portion of portions) {
    const { action: wanted, immutable } = treatmentOf(portion.tag);
    const action = sleepAction(portion, wanted);
    if (action !== undefined) steps.push({ portion, action, immutable, spilledSegments: 0 });
  }
  return steps;
}

/** The steps that wake the named tags, or without names everything. */
export function planWake(
  portions: readonly Portion[],
  tags: readonly string[] | undefined,
  isImmutable: (tag: string) => boolean,
): Step[] {
  const asleep = portions.filter(
    ({ state, tag }) => state !== "mapped" && (tags === undefined || tags.includes(tag)),
  );
  return asleep.map((portion) => ({
    portion,
    action: portion.state === "offloaded" ? "restore" : "remap",
    immutable: isImmutable(portion.tag),
    spilledSegments: 0,
  }));
}

/** The bytes of the steps with the given action. */
export function bytesOf(steps: readonly Step[], wanted: StepAction): number {
  return steps.reduce((sum, { action, portion }) => sum + (action === wanted ? portion.sizeBytes : 0), 0);
}

/** How many new backups a step makes. */
function newBackups({ action, portion }: Step): number {
  const copies = action === "offload" || (action === "release" && portion.state === "offloaded");
  return copies && !portion.backedUp ? portion.segments : 0;
}

/** Bytes of new backups in page-locked host memory, and in the spill folder. */
export function backupBytesNeeded(steps: readonly Step[]): { hostBytes: number; spillBytes: number } {
  const needed = { hostBytes: 0, spillBytes: 0 };
  for (const step of steps) {
    needed.hostBytes += (newBackups(step) - step.spilledSegments) * step.portion.segmentBytes;
    needed.spillBytes += step.spilledSegments * step.portion.segmentBytes;
  }
  return needed;
}

/** The same steps, with those backups in the spill folder that `hostBytes` has no room for. */
export function spillBeyond(steps: readonly Step[], hostBytes: number): Step[] {
  let leftBytes = hostBytes;
  return steps.map((step) => {
    const count = newBackups(step);
    const fitting = Math.min(count, Math.floor(leftBytes / step.portion.segmentBytes));
    leftBytes -= fitting * step.portion.segmentBytes;
    return { ...step, spilledSegments: count - fitting };
  });
}

/** Device memory that the steps of a wake-up take, by device; none for a sleep. */
export function deviceBytesNeeded(steps: readonly Step[]): Map<number, number> {
  const needed = new Map<number, number>();
  for (const { action, portion } of steps) {
    if (action !== "restore" && action !== "remap") continue;
    const bytes = portion.sizeBytes - portion.committedBytes;
    needed.set(portion.device, (needed.get(portion.device) ?? 0) + bytes);
  }
  return needed;
}

/** The tags of `portions`, each once, in the order of their first segments. */
export function tagsOf(portions: readonly Portion[]): string[] {
  return [...new Set(portions.map((portion) => portion.tag))];
}
