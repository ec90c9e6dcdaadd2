/** What a transition needs against what there is, known before anything is touched. */

import { CamemError } from "./errors.ts";
import { bytesOf, deviceBytesNeeded, hostBytesNeeded, type Segment, type Step, tagsOf } from "./plan.ts";
import { formatSize } from "./sizes.ts";

/** Bytes of one tag, by what becomes of them. */
export interface TagPlan {
  /** Copied to the host, then freed on the device. */
  readonly offloadBytes: number;
  /** Freed, with their content or backup dropped. */
  readonly discardBytes: number;
  /** Mapped with their content. */
  readonly restoreBytes: number;
  /** Mapped with undefined content. */
  readonly remapBytes: number;
}

/** What `sleep` or `wakeUp` would do now, and whether there is room for it. */
export interface TransitionPlan {
  readonly tags: Readonly<Record<string, TagPlan>>;
  /** Device memory that a wake-up takes, on each device that it concerns. */
  readonly devices: readonly {
    readonly device: number;
    readonly neededBytes: number;
    readonly freeBytes: number;
  }[];
  /** Page-locked host memory that a sleep takes. */
  readonly host: {
    readonly neededBytes: number;
    /** What the host budget leaves; null without a budget. */
    readonly freeBytes: number | null;
  };
  readonly fits: boolean;
}

/** What there is to take from. */
export interface Resources {
  readonly hostBudgetBytes: number;
  freeDeviceBytes(device: number): number;
}

function tagPlan(steps: readonly Step[]): TagPlan {
  return {
    offloadBytes: bytesOf(steps, "offload"),
    discardBytes: bytesOf(steps, "discard"),
    restoreBytes: bytesOf(steps, "restore"),
    remapBytes: bytesOf(steps, "remap"),
  };
}

/** Weighs the steps of a plan for the table `segments` against what there is. */
export function assess(
  steps: readonly Step[],
  segments: readonly Segment[],
  resources: Resources,
): TransitionPlan {
  const devices = [...deviceBytesNeeded(steps)].map(([device, neededBytes]) => ({
    device,
    neededBytes,
    freeBytes: resources.freeDeviceBytes(device),
  }));
  const heldBytes = segments.reduce((sum, segment) => sum + segment.hostBytes, 0);
  const leftBytes = Math.max(0, resources.hostBudgetBytes - heldBytes);
  const host = {
    neededBytes: hostBytesNeeded(steps),
    freeBytes: Number.isFinite(leftBytes) ? leftBytes : null,
  };
  const tags = tagsOf(steps.map((step) => step.segment)).map((tag) => [
    tag,
    tagPlan(steps.filter((step) => step.segment.tag === tag)),
  ]);
  return {
    tags: Object.fromEntries(tags),
    devices,
    host,
    fits: host.neededBytes <= leftBytes && devices.every((each) => each.neededBytes <= each.freeBytes),
  };
}

/** @throws CamemError `HOST_BUDGET_EXCEEDED` or `OUT_OF_DEVICE_MEMORY`, naming the shortfall */
export function assertFits({ host, devices }: TransitionPlan): void {
  if (host.freeBytes !== null && host.neededBytes > host.freeBytes) {
    const shortBytes = host.neededBytes - host.freeBytes;
    throw new CamemError(
      "HOST_BUDGET_EXCEEDED",
      `this sleep needs ${formatSize(host.neededBytes)} of host memory and the host budget leaves ${formatSize(host.freeBytes)}, ${formatSize(shortBytes)} too little; nothing has changed; raise hostBudget (CAMEM_HOST_BUDGET) or discard more`,
      { sizeBytes: shortBytes },
    );
  }
  for (const { device, neededBytes, freeBytes } of devices) {
    if (neededBytes <= freeBytes) continue;
    const shortBytes = neededBytes - freeBytes;
    throw new CamemError(
      "OUT_OF_DEVICE_MEMORY",
      `this wake-up needs ${formatSize(neededBytes)} on device ${device}, where ${formatSize(freeBytes)} are free; nothing has changed; free ${formatSize(shortBytes)} or wake fewer tags`,
      { sizeBytes: shortBytes },
    );
  }
}
