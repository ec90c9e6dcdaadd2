/** Pure planning: a summary of the table of segments goes in, the steps of one sleep or wake-up come out. */

import type { Portion } from "../memory/table.ts";
import type { TagTreatment } from "../policy/levels.ts";
import type { TagAction } from "../policy/tags.ts";

export type StepAction = "offload" | "discard" | "restore" | "remap" | "release";

export interface Step {
  readonly portion: Portion;
  readonly action: StepAction;
  /** The tag is declared immutable: a wake-up keeps the backups. */
  readonly immutable: boolean;
  /** Of new backups, how many go to the spill folder. */
  readonly spilledSegments: number;
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
