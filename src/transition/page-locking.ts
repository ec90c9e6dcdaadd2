/** What to do where the host refuses memory to a transition, for the error that says so. */

import type { Failure } from "../ffi/index.ts";
import type { LockLimit } from "../memory/host-memory.ts";
import type { Config } from "../options/allocator-options.ts";
import { formatSize } from "../options/sizes.ts";
import type { Operation } from "./progress.ts";

/** What a transition asks of host memory. */
export interface HostNeed {
  readonly operation: Operation;
  /** Bytes of new backups and of staging, on all devices together. */
  readonly neededBytes: number;
  /** Bytes of staging on each device. */
  readonly stagingBytes: number;
  readonly lockLimit: LockLimit | undefined;
}

const calls: ReadonlySet<string> = new Set(["aclrtMallocHost", "mmap", "madvise"]);

function limitsText({ lockLimit }: HostNeed): string {
  const applies = lockLimit !== undefined && !lockLimit.isExempt && Number.isFinite(lockLimit.limitBytes);
  const locked = applies ? ` (ulimit -l is ${formatSize(lockLimit.limitBytes)})` : "";
  return `free host memory or raise the limits of this container or process${locked}`;
}

/** Undefined for the failure of another call. */
export function hostMemoryRemedy(
  { call }: Failure,
  need: HostNeed,
  { pageable, spillDir }: Pick<Config, "pageable" | "spillDir">,
): string | undefined {
  if (!calls.has(call)) return undefined;
  const limits = limitsText(need);
  const makesBackups = need.operation !== "wake-up";
  if (makesBackups && !pageable && spillDir === null)
    return `the ${need.operation} needs ${formatSize(need.neededBytes)} of host memory in all; ${limits}, set pageable (CAMEM_PAGEABLE) or spillDir (CAMEM_SPILL_DIR), or discard more`;
  if (call === "aclrtMallocHost")
    return `copies from and to files and ordinary memory need ${formatSize(need.stagingBytes)} of page-locked memory on each device; ${limits}`;
  return `the ${need.operation} needs ${formatSize(need.neededBytes)} of host memory in all; ${limits}, set spillDir (CAMEM_SPILL_DIR), or discard more`;
}
