/** Fake `/proc` and `/sys/fs/cgroup` trees. */

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

export const GiB = 2 ** 30;

/** Writes files by their paths below `root`. */
export function writeTree(root: string, files: Readonly<Record<string, string | number>>): void {
  for (const [path, content] of Object.entries(files)) {
    const target = join(root, path);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, `${content}\n`);
  }
}

/** `/proc/meminfo` of a machine. */
export const machineFiles = (totalBytes: number, availableBytes: number) => ({
  "proc/meminfo": [
    `MemTotal:       ${totalBytes / 1024} kB`,
    "MemFree:        1024 kB",
    `MemAvailable:   ${availableBytes / 1024} kB`,
  ].join("\n"),
});

/** A line of `/proc/self/mountinfo`. */
export const mountLine = (group: string, mountPoint: string, type: "cgroup" | "cgroup2", options: string) =>
  `31 23 0:28 ${group} ${mountPoint} rw,relatime shared:4 - ${type} cgroup rw,${options}`;
