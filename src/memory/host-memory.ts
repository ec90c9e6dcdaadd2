/** What the kernel says about the host's memory: free memory, limits of containers, and the limit on locked memory. */

import { join } from "node:path";
import { ControlGroups, type GroupLimit, readText } from "./control-groups.ts";

/** The memory of the machine. */
export interface MachineMemory {
  /** The file that it was read from. */
  readonly path: string;
  readonly totalBytes: number;
  /** Free memory, with cached files counted as free. */
  readonly freeBytes: number;
}

/** The limit on memory that a process locks itself (`RLIMIT_MEMLOCK`). */
export interface LockLimit {
  /** Infinite without a limit. */
  readonly limitBytes: number;
  /** True where this process may exceed it (`CAP_IPC_LOCK`). */
  readonly isExempt: boolean;
}

/** The bit of `CAP_IPC_LOCK` (linux/capability.h). */
const ipcLockBit = 14n;

export class HostMemory {
  readonly #root: string;
  readonly #groups: ControlGroups;

  /**
   * @param root the folder that `/proc` and `/sys` are in
   * @param process whose memory; by default this process's
   */
  constructor(root = "/", process: number | "self" = "self") {
    this.#root = root;
    this.#groups = new ControlGroups(root, process);
  }

  /** Undefined where it cannot be read. */
  machine(): MachineMemory | undefined {
    const path = join(this.#root, "proc/meminfo");
    const text = readText(path) ?? "";
    const bytes = (name: string) => {
      const kibibytes = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1];
      return kibibytes === undefined ? undefined : Number(kibibytes) * 1024;
    };
    const totalBytes = bytes("MemTotal");
    const freeBytes = bytes("MemAvailable");
    return totalBytes === undefined || freeBytes === undefined ? undefined : { path, totalBytes, freeBytes };
  }

  /** The limits of the containers that the process is in, innermost first. */
  containers(): GroupLimit[] {
    return this.#groups.limits();
  }

  /** Undefined where it cannot be read. */
  lockLimit(): LockLimit | undefined {
    const limits = readText(join(this.#root, "proc/self/limits")) ?? "";
    const limit = /^Max locked memory\s+(\d+|unlimited)\s/m.exec(limits)?.[1];
    if (limit === undefined) return undefined;
    const process = readText(join(this.#root, "proc/self/status")) ?? "";
    const capabilities = /^CapEff:\s+([0-9a-f]+)$/m.exec(process)?.[1];
    return {
      limitBytes: limit === "unlimited" ? Number.POSITIVE_INFINITY : Number(limit),
      isExempt: capabilities !== undefined && ((BigInt(`0x${capabilities}`) >> ipcLockBit) & 1n) === 1n,
    };
  }
}
