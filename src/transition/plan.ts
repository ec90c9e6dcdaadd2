/** Pure planning: turns groups of segments into the steps of one sleep or wake-up. */

import type { SegmentGroup } from "../memory/table.ts";
import type { TagAction, TagPolicy, TreatmentOf } from "../policy/tag-policies.ts";

type StepAction = "offload" | "discard" | "restore" | "remap" | "release";

export interface Step {
  readonly group: SegmentGroup;
  readonly action: StepAction;
  /** True when the tag is immutable: a wake-up keeps the backups then. */
  readonly immutable: boolean;
  /** True when memory that is mapped without its content is zeroed. */
  readonly zero: boolean;
  /** The number of new backups that go to the spill folder. */
  readonly spilledSegments: number;
}

/** The action of a sleep on a group; undefined where there is nothing to do. */
function sleepAction(group: SegmentGroup, wanted: TagAction): StepAction | undefined {
  if (wanted === "keep") return undefined;
  switch (group.state) {
    case "mapped":
      return wanted;
    case "offloaded":
      // A deeper sleep drops the backup that a lighter one made.
      if (wanted === "discard") return "discard";
      return group.unreleased ? "release" : undefined;
    case "discarded":
      return group.unreleased ? "release" : undefined;
  }
}

/** The steps that put memory to sleep, by the treatment of each tag. */
export function planSleep(groups: readonly SegmentGroup[], treatmentOf: TreatmentOf): Step[] {
  const steps: Step[] = [];
  for (const group of groups) {
    const { action: wanted, immutable } = treatmentOf(group.tag, group.tagId);
    const action = sleepAction(group, wanted);
    if (action !== undefined) steps.push({ group, action, immutable, zero: false, spilledSegments: 0 });
  }
  return steps;
}

/**
 * The steps that wake the given tags; by default all.
 *
 * @param zero whether memory without content is zeroed; by default as its tag's policy says
 */
export function planWake(
  groups: readonly SegmentGroup[],
  tags: readonly string[] | undefined,
  policyOf: (tag: string, id: number) => Pick<TagPolicy, "immutable" | "zero"> | undefined,
  zero?: boolean,
): Step[] {
  const selected = tags && new Set(tags);
  const asleep = groups.filter(({ state, tag }) => state !== "mapped" && (selected?.has(tag) ?? true));
  return asleep.map((group) => {
    const policy = policyOf(group.tag, group.tagId);
    const isRemap = group.state === "discarded";
    return {
      group,
      action: isRemap ? "remap" : "restore",
      immutable: policy?.immutable ?? false,
      zero: isRemap && (zero ?? policy?.zero ?? false),
      spilledSegments: 0,
    };
  });
}

/** The steps that free device memory which an earlier transition could not free, for groups that `steps` leave alone. */
export function planLeftovers(groups: readonly SegmentGroup[], steps: readonly Step[]): Step[] {
  const planned = new Set(steps.map(({ group }) => group));
  // Without a backup, the memory holds the content: an earlier sleep could not be undone.
  const isFreeable = ({ unreleased, moving, state, backedUp }: SegmentGroup) =>
    unreleased && !moving && (state === "discarded" || backedUp);
  return groups
    .filter((group) => isFreeable(group) && !planned.has(group))
    .map((group) => ({ group, action: "release", immutable: false, zero: false, spilledSegments: 0 }));
}

/** Bytes of the segments in all steps with the given action. */
export function sizeBytesOf(steps: readonly Step[], wanted: StepAction): number {
  return steps.reduce((sum, { action, group }) => sum + (action === wanted ? group.sizeBytes : 0), 0);
}

/** The number of new backups that a step makes. */
function newBackupCount({ action, group }: Step): number {
  const copies = action === "offload" || (action === "release" && group.state === "offloaded");
  return copies && !group.backedUp ? group.segments : 0;
}

/** Bytes of new backups in page-locked host memory and in the spill folder. */
export function backupBytesNeeded(steps: readonly Step[]): { hostBytes: number; spillBytes: number } {
  const needed = { hostBytes: 0, spillBytes: 0 };
  for (const step of steps) {
    needed.hostBytes += (newBackupCount(step) - step.spilledSegments) * step.group.segmentBytes;
    needed.spillBytes += step.spilledSegments * step.group.segmentBytes;
  }
  return needed;
}

/** The same steps, with the backups that exceed `hostBytes` in the spill folder. */
export function spillBeyond(steps: readonly Step[], hostBytes: number): Step[] {
  let leftBytes = hostBytes;
  return steps.map((step) => {
    const count = newBackupCount(step);
    const fitting = Math.min(count, Math.floor(leftBytes / step.group.segmentBytes));
    leftBytes -= fitting * step.group.segmentBytes;
    return { ...step, spilledSegments: count - fitting };
  });
}

/** Bytes of device memory that the steps of a wake-up take, by device; empty for a sleep. */
export function deviceBytesNeeded(steps: readonly Step[]): Map<number, number> {
  const needed = new Map<number, number>();
  for (const { action, group } of steps) {
    if (action !== "restore" && action !== "remap") continue;
    const bytes = group.sizeBytes - group.committedBytes;
    needed.set(group.device, (needed.get(group.device) ?? 0) + bytes);
  }
  return needed;
}

/** Bytes of device memory that the steps of a sleep give back, by device; empty for a wake-up. */
export function deviceBytesFreed(steps: readonly Step[]): Map<number, number> {
  const freed = new Map<number, number>();
  for (const { action, group } of steps) {
    if (action === "restore" || action === "remap" || group.committedBytes === 0) continue;
    freed.set(group.device, (freed.get(group.device) ?? 0) + group.committedBytes);
  }
  return freed;
}

/** The distinct tags of `groups`, in the order of their first segments. */
export function tagsOf(groups: readonly SegmentGroup[]): string[] {
  return [...new Set(groups.map((group) => group.tag))];
}

/** The tags of memory that a wake-up maps without its content. */
export function lostTagsOf(steps: readonly Step[]): string[] {
  return tagsOf(steps.filter(({ action }) => action === "remap").map(({ group }) => group));
}
