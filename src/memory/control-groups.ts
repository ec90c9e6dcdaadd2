/** Memory limits of the control groups (cgroups) that this process is in, which is how a container limits memory. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

/** A control group that limits memory. */
export interface GroupLimit {
  /** The file that holds the limit. */
  readonly path: string;
  readonly limitBytes: number;
  /** The bytes that the group can still take, with cached files counted as free. */
  readonly freeBytes: number;
}

/** The text of a file, or undefined where it cannot be read. */
export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

/** One hierarchy of control groups, where it is mounted. */
interface Mount {
  readonly version: 1 | 2;
  /** The group that the mount point shows. */
  readonly group: string;
  readonly mountPoint: string;
}

/** Above this the kernel means "no limit". */
const noLimitBytes = 2 ** 60;

function bytesOf(text: string | undefined): number | undefined {
  const bytes = Number.parseInt(text ?? "", 10);
  return Number.isNaN(bytes) || bytes >= noLimitBytes ? undefined : bytes;
}

/** The named numbers of a `memory.stat` file, or of another file of lines with a name and a number. */
function numbersOf(text: string | undefined): Map<string, number> {
  const lines = (text ?? "").split("\n").map((line) => line.split(" "));
  return new Map(lines.map(([name = "", value]) => [name, Number(value)]));
}

/** Bytes of cached files, which the kernel drops when memory is short. Those not yet written to disk do not count. */
function cachedBytes(stat: Map<string, number>, prefix: string): number {
  const bytes = (name: string) => stat.get(prefix + name) ?? 0;
  const unwritten =
    prefix === "" ? bytes("file_dirty") + bytes("file_writeback") : bytes("dirty") + bytes("writeback");
  return Math.max(0, bytes("inactive_file") + bytes("active_file") - unwritten);
}

function limitOf(path: string, limitBytes: number, usedBytes: number): GroupLimit {
  return { path, limitBytes, freeBytes: Math.min(limitBytes, Math.max(0, limitBytes - usedBytes)) };
}

function limitsOfVersion2(folder: string): GroupLimit[] {
  const files = ["memory.max", "memory.high"].map((name) => join(folder, name));
  const limits = files.map((path) => ({ path, bytes: bytesOf(readText(path)) }));
  if (limits.every(({ bytes }) => bytes === undefined)) return [];
  const stat = numbersOf(readText(join(folder, "memory.stat")));
  const usedBytes = (bytesOf(readText(join(folder, "memory.current"))) ?? 0) - cachedBytes(stat, "");
  return limits.flatMap(({ path, bytes }) => (bytes === undefined ? [] : [limitOf(path, bytes, usedBytes)]));
}

function limitsOfVersion1(folder: string): GroupLimit[] {
  const path = join(folder, "memory.limit_in_bytes");
  const stat = numbersOf(readText(join(folder, "memory.stat")));
  // The lowest limit of this group and the groups around it, those that the container does not see included.
  const around = stat.get("hierarchical_memory_limit") ?? noLimitBytes;
  const limitBytes = Math.min(bytesOf(readText(path)) ?? noLimitBytes, around);
  if (limitBytes >= noLimitBytes) return [];
  const usageBytes = bytesOf(readText(join(folder, "memory.usage_in_bytes"))) ?? 0;
  return [limitOf(path, limitBytes, usageBytes - cachedBytes(stat, "total_"))];
}

/** In `mountinfo`, spaces and the like are octal escapes. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits) => String.fromCharCode(Number.parseInt(digits, 8)));
}

function mountOf(line: string): Mount | undefined {
  const [own = "", source = ""] = line.split(" - ");
  const [, , , group = "", mountPoint = ""] = own.split(" ");
  const [type = "", , options = ""] = source.split(" ");
  const place = { group: unescapeOctal(group), mountPoint: unescapeOctal(mountPoint) };
  if (type === "cgroup2") return { version: 2, ...place };
  return type === "cgroup" && options.split(",").includes("memory") ? { version: 1, ...place } : undefined;
}

/** The group of a process in the hierarchy of each version, by the lines of its `cgroup` file in `/proc`. */
function ownGroups(text: string): Map<Mount["version"], string> {
  const groups = new Map<Mount["version"], string>();
  for (const line of text.split("\n")) {
    const [, number, controllers = "", group = ""] = /^(\d+):([^:]*):(.*)$/.exec(line) ?? [];
    if (number === "0" && controllers === "") groups.set(2, group);
    else if (controllers.split(",").includes("memory")) groups.set(1, group);
  }
  return groups;
}

/** The path of `group` below `mount`; undefined where the mount does not show the group. */
function below(mount: Mount, group: string): string | undefined {
  if (group.startsWith("/..") || mount.group.startsWith("/..")) return undefined;
  if (mount.group === "/") return group.slice(1);
  if (group === mount.group) return "";
  return group.startsWith(`${mount.group}/`) ? group.slice(mount.group.length + 1) : undefined;
}

/** The memory control groups of a process. */
export class ControlGroups {
  readonly #root: string;
  readonly #process: number | "self";
  /** Found at first use: mounts stay, while a process can move to another group. */
  #mounts: readonly Mount[] | undefined;

  /**
   * @param root the folder that `/proc` and the mount points are in
   * @param process whose groups; by default this process's
   */
  constructor(root: string, process: number | "self" = "self") {
    this.#root = root;
    this.#process = process;
  }

  /** The limits of the group of the process and of every visible group around it, innermost first. */
  limits(): GroupLimit[] {
    const groups = ownGroups(readText(join(this.#root, `proc/${this.#process}/cgroup`)) ?? "");
    this.#mounts ??= this.#findMounts();
    const mounts = this.#mounts;
    return [...groups].flatMap(([version, group]) => {
      const candidates = mounts.filter((mount) => mount.version === version);
      const shown = candidates.find((mount) => below(mount, group) !== undefined);
      // In a container the mount may show its own group alone, under whatever name.
      const mount = shown ?? candidates[0];
      return mount === undefined ? [] : this.#limitsAlong(mount, below(mount, group) ?? "");
    });
  }

  #findMounts(): Mount[] {
    const lines = (readText(join(this.#root, "proc/self/mountinfo")) ?? "").split("\n");
    return lines.map(mountOf).filter((mount) => mount !== undefined);
  }

  #limitsAlong({ version, mountPoint }: Mount, path: string): GroupLimit[] {
    const limits: GroupLimit[] = [];
    const names = path.split("/").filter((name) => name !== "");
    for (let depth = names.length; depth >= 0; depth--) {
      const folder = join(this.#root, mountPoint, ...names.slice(0, depth));
      const countsInner = readText(join(folder, "memory.use_hierarchy"))?.trim() !== "0";
      if (version === 1 && depth < names.length && !countsInner) break;
      limits.push(...(version === 2 ? limitsOfVersion2(folder) : limitsOfVersion1(folder)));
    }
    return limits;
  }
}
