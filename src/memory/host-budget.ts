/** The host budget: the option's, or what free memory and the limits of containers allow at the moment. */

import type * as native from "../ffi/index.ts";
import { formatSize } from "../options/sizes.ts";
import { HostMemory, type LockLimit } from "./host-memory.ts";

/** The most host memory that all backups together may take, and where the figure comes from. */
export interface HostBudget {
  /** Bytes, those of existing backups included; null without a limit. */
  readonly sizeBytes: number | null;
  /**
   * `option`: `hostBudget` or its variable. Without that option: `machine`, from the machine's free memory, or `container`, from
   * the memory limit of a container. `unknown`: neither could be read, so there is no limit.
   */
  readonly source: "option" | "machine" | "container" | "unknown";
  /** The file that the figure was read from; null for `option` and `unknown`. */
  readonly path: string | null;
}

/** Host memory that backups have, or can have without taking more. */
export interface HostHoldings {
  /** Bytes of backups in host memory. */
  readonly backupBytes: number;
  /** Bytes of page-locked memory without a backup. */
  readonly reusableBytes: number;
}

const noLimit: HostBudget = { sizeBytes: null, source: "unknown", path: null };

/** Left free for everything else: a sixteenth of the machine's memory or the container's limit, and at most this. */
const largestMarginBytes = 4 * 2 ** 30;
const marginShare = 1 / 16;

function withoutMargin(freeBytes: number, totalBytes: number): number {
  return Math.max(0, freeBytes - Math.min(largestMarginBytes, Math.floor(totalBytes * marginShare)));
}

/**
 * The budget at this moment. Free memory is read each time, since other engines and processes take memory as well.
 *
 * @param configuredBytes the option's; infinite for no limit, null to derive it
 */
export function hostBudget(
  configuredBytes: number | null,
  memory: HostMemory,
  { backupBytes, reusableBytes }: HostHoldings,
): HostBudget {
  if (configuredBytes !== null)
    return {
      sizeBytes: Number.isFinite(configuredBytes) ? configuredBytes : null,
      source: "option",
      path: null,
    };
  const machine = memory.machine();
  const machines = machine === undefined ? [] : [{ ...machine, source: "machine" as const }];
  const containers = memory.containers().map(({ path, limitBytes, freeBytes }) => ({
    path,
    totalBytes: limitBytes,
    freeBytes,
    source: "container" as const,
  }));
  let budget = noLimit;
  for (const { path, totalBytes, freeBytes, source } of [...machines, ...containers]) {
    const sizeBytes = backupBytes + reusableBytes + withoutMargin(freeBytes, totalBytes);
    if (budget.sizeBytes === null || sizeBytes < budget.sizeBytes) budget = { sizeBytes, source, path };
  }
  return budget;
}

/** The host budget of an allocator. */
export class HostBudgets {
  readonly #native: native.Native;
  readonly #configuredBytes: number | null;
  readonly #memory: HostMemory;

  constructor(shim: native.Native, configuredBytes: number | null, memory = new HostMemory()) {
    this.#native = shim;
    this.#configuredBytes = configuredBytes;
    this.#memory = memory;
  }

  /** @param backupBytes bytes of backups in host memory */
  now(backupBytes: number): HostBudget {
    const reusableBytes = this.#native.hostInfo().freeBytes;
    return hostBudget(this.#configuredBytes, this.#memory, { backupBytes, reusableBytes });
  }

  /**
   * As `now`, for a transition that takes `neededBytes`: no limit where these fit in any case. A derived budget has room for what
   * is page-locked already, and reading free memory takes as long as the sleep of a small model.
   */
  for(neededBytes: number, backupBytes: number): HostBudget {
    const fitsAlways = this.#configuredBytes === null && neededBytes <= this.#native.hostInfo().freeBytes;
    return fitsAlways ? noLimit : this.now(backupBytes);
  }

  lockLimit(): LockLimit | undefined {
    return this.#memory.lockLimit();
  }
}

/** The budget as an error or a report states it. */
export function describeHostBudget({ sizeBytes, source, path }: HostBudget): string {
  const size = sizeBytes === null ? "no limit" : formatSize(sizeBytes);
  switch (source) {
    case "option":
      return `${size}, from hostBudget (CAMEM_HOST_BUDGET)`;
    case "machine":
      return `${size}, from the free memory of this machine (${path})`;
    case "container":
      return `${size}, from the memory limit of this container (${path})`;
    case "unknown":
      return `${size}: the free memory of this machine cannot be read`;
  }
}
