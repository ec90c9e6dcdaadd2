/** Compares the memory that a transition needs with the memory that is free, before anything changes. */

import { CamemError } from "../errors.ts";
import { describeHostBudget, type HostBudget } from "../memory/host-budget.ts";
import type { SegmentGroup } from "../memory/table.ts";
import { formatSize } from "../options/sizes.ts";
import { recordByTag } from "../policy/tag-names.ts";
import { backupBytesNeeded, deviceBytesFreed, deviceBytesNeeded, type Step } from "./plan.ts";

/** Bytes of one tag, by what happens to them. */
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

/** What `sleep` or `wakeUp` would do now, and whether it fits. */
export interface TransitionPlan {
  /** Bytes by tag. */
  readonly tags: Readonly<Record<string, TagPlan>>;
  /** Device memory that a wake-up takes, by device. */
  readonly devices: readonly {
    /** The device number. */
    readonly device: number;
    /** Bytes that the wake-up takes. */
    readonly neededBytes: number;
    /** Bytes that are free now. */
    readonly freeBytes: number;
  }[];
  /** Device memory that a sleep gives back, by device. It includes memory that an earlier sleep could not give back. */
  readonly freed: readonly {
    /** The device number. */
    readonly device: number;
    /** Bytes that the sleep gives back. */
    readonly freedBytes: number;
  }[];
  /** Page-locked host memory that a sleep takes. */
  readonly host: {
    /** Bytes that the sleep takes. */
    readonly neededBytes: number;
    /** The rest of the host budget; null without a limit. */
    readonly freeBytes: number | null;
    /** The host budget at this moment. */
    readonly budget: HostBudget;
  };
  /** Disk space that a sleep takes for backups beyond the host budget; null without a `spillDir`. */
  readonly spill: {
    /** Bytes that the sleep takes. */
    readonly neededBytes: number;
    /** Bytes that are free now. */
    readonly freeBytes: number;
  } | null;
  /** True when host, disk and devices have room. */
  readonly fits: boolean;
}

/** The memory that a transition may take. */
interface Resources {
  readonly hostBudget: HostBudget;
  /** Free bytes on the disk of the spill folder; undefined without a spill folder. */
  freeSpillBytes(): number | undefined;
  freeDeviceBytes(device: number): number;
}

/** The sum that each action adds to; `release` gives back memory that counts as asleep already. */
const sumOf = {
  offload: "offloadBytes",
  discard: "discardBytes",
  restore: "restoreBytes",
  remap: "remapBytes",
  release: undefined,
} as const;

function tagPlans(steps: readonly Step[]): Record<string, TagPlan> {
  const plans = new Map<string, { -readonly [Name in keyof TagPlan]: number }>();
  for (const { action, group } of steps) {
    let plan = plans.get(group.tag);
    if (plan === undefined) {
      plan = { offloadBytes: 0, discardBytes: 0, restoreBytes: 0, remapBytes: 0 };
      plans.set(group.tag, plan);
    }
    const sum = sumOf[action];
    if (sum !== undefined) plan[sum] += group.sizeBytes;
  }
  return recordByTag(plans);
}

/** Bytes of backups in host memory. */
export function backupBytesHeld(groups: readonly SegmentGroup[]): number {
  return groups.reduce((sum, group) => sum + group.hostBytes, 0);
}

/** The bytes that the host budget leaves for new backups. */
export function hostBytesLeft(groups: readonly SegmentGroup[], { sizeBytes }: HostBudget): number {
  return Math.max(0, (sizeBytes ?? Number.POSITIVE_INFINITY) - backupBytesHeld(groups));
}

/** Compares the needs of `steps`, which were planned for the table `groups`, with `resources`. */
export function assess(
  steps: readonly Step[],
  groups: readonly SegmentGroup[],
  resources: Resources,
): TransitionPlan {
  const devices = [...deviceBytesNeeded(steps)].map(([device, neededBytes]) => ({
    device,
    neededBytes,
    freeBytes: resources.freeDeviceBytes(device),
  }));
  const budget = resources.hostBudget;
  const leftBytes = hostBytesLeft(groups, budget);
  const { hostBytes, spillBytes } = backupBytesNeeded(steps);
  const host = {
    neededBytes: hostBytes,
    freeBytes: Number.isFinite(leftBytes) ? leftBytes : null,
    budget,
  };
  const freeSpillBytes = resources.freeSpillBytes();
  const spill = freeSpillBytes === undefined ? null : { neededBytes: spillBytes, freeBytes: freeSpillBytes };
  return {
    tags: tagPlans(steps),
    devices,
    freed: [...deviceBytesFreed(steps)].map(([device, freedBytes]) => ({ device, freedBytes })),
    host,
    spill,
    fits:
      host.neededBytes <= leftBytes &&
      (spill === null || spill.neededBytes <= spill.freeBytes) &&
      devices.every((each) => each.neededBytes <= each.freeBytes),
  };
}

function budgetRemedy({ source }: HostBudget): string {
  if (source === "option") return "raise hostBudget (CAMEM_HOST_BUDGET)";
  const memory = source === "container" ? "raise the container's memory limit" : "free host memory";
  return `${memory}, set hostBudget (CAMEM_HOST_BUDGET)`;
}

/** @throws CamemError `HOST_BUDGET_EXCEEDED`, `FILE_FAILED` or `OUT_OF_DEVICE_MEMORY`, naming the shortfall */
export function assertFits({ host, spill, devices }: TransitionPlan): void {
  if (host.freeBytes !== null && host.neededBytes > host.freeBytes) {
    const shortBytes = host.neededBytes - host.freeBytes;
    throw new CamemError(
      "HOST_BUDGET_EXCEEDED",
      `this sleep needs ${formatSize(host.neededBytes)} of host memory and the host budget leaves ${formatSize(host.freeBytes)}, ${formatSize(shortBytes)} too little; the budget is ${describeHostBudget(host.budget)}; nothing has changed; ${budgetRemedy(host.budget)}, set spillDir (CAMEM_SPILL_DIR) or discard more`,
      { sizeBytes: shortBytes },
    );
  }
  if (spill !== null && spill.neededBytes > spill.freeBytes)
    throw new CamemError(
      "FILE_FAILED",
      `this sleep spills ${formatSize(spill.neededBytes)} and the disk of spillDir has ${formatSize(spill.freeBytes)} free; nothing has changed; free disk space, raise hostBudget or discard more`,
      { sizeBytes: spill.neededBytes - spill.freeBytes },
    );
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
