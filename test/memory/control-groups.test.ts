/** Limits of control groups, read from fake trees in the shapes that containers have. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ControlGroups } from "../../src/memory/control-groups.ts";
import { MiB } from "../support/device.ts";
import { GiB, mountLine, writeTree } from "./host-memory-files.ts";

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "camem-control-groups-"));
});

afterEach(() => rmSync(root, { recursive: true }));

const limits = () =>
  new ControlGroups(root).limits().map(({ path, limitBytes, freeBytes }) => ({
    path: path.slice(root.length),
    limitBytes,
    freeBytes,
  }));

const version2 = "sys/fs/cgroup";
const version1 = "sys/fs/cgroup/memory";
const unlimited = "9223372036854771712";

test("limits() reads every group of version 2 along the path, innermost first", () => {
  writeTree(root, {
    "proc/self/cgroup": "0::/kubepods/pod1/main",
    "proc/self/mountinfo": mountLine("/", "/sys/fs/cgroup", "cgroup2", "nsdelegate"),
    [`${version2}/kubepods/pod1/main/memory.max`]: "max",
    [`${version2}/kubepods/pod1/main/memory.current`]: GiB,
    [`${version2}/kubepods/pod1/memory.max`]: 8 * GiB,
    [`${version2}/kubepods/pod1/memory.current`]: 3 * GiB,
    [`${version2}/kubepods/memory.max`]: 64 * GiB,
    [`${version2}/kubepods/memory.current`]: 60 * GiB,
  });
  expect(limits()).toEqual([
    { path: `/${version2}/kubepods/pod1/memory.max`, limitBytes: 8 * GiB, freeBytes: 5 * GiB },
    { path: `/${version2}/kubepods/memory.max`, limitBytes: 64 * GiB, freeBytes: 4 * GiB },
  ]);
});

test("limits() counts files that are cached and written to disk as free", () => {
  const stat = ["anon 1048576", `inactive_file ${3 * GiB}`, `active_file ${GiB}`, `file_dirty ${GiB}`];
  writeTree(root, {
    "proc/self/cgroup": "0::/",
    "proc/self/mountinfo": mountLine("/", "/sys/fs/cgroup", "cgroup2", "nsdelegate"),
    [`${version2}/memory.max`]: 8 * GiB,
    [`${version2}/memory.current`]: 6 * GiB,
    [`${version2}/memory.stat`]: stat.join("\n"),
  });
  expect(limits()).toEqual([{ path: `/${version2}/memory.max`, limitBytes: 8 * GiB, freeBytes: 5 * GiB }]);
});

test("limits() includes memory.high, beyond which the kernel slows the group down", () => {
  writeTree(root, {
    "proc/self/cgroup": "0::/job",
    "proc/self/mountinfo": mountLine("/", "/sys/fs/cgroup", "cgroup2", "nsdelegate"),
    [`${version2}/job/memory.max`]: "max",
    [`${version2}/job/memory.high`]: 2 * GiB,
    [`${version2}/job/memory.current`]: 3 * GiB,
  });
  expect(limits()).toEqual([{ path: `/${version2}/job/memory.high`, limitBytes: 2 * GiB, freeBytes: 0 }]);
});

test("limits() finds the own group where a mount shows that group alone", () => {
  writeTree(root, {
    "proc/self/cgroup": "11:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc",
    "proc/self/mountinfo": mountLine("/docker/abc", "/sys/fs/cgroup/memory", "cgroup", "memory"),
    [`${version1}/memory.limit_in_bytes`]: 512 * MiB,
    [`${version1}/memory.usage_in_bytes`]: 200 * MiB,
    [`${version1}/memory.stat`]: `total_inactive_file ${100 * MiB}\ninactive_file 5`,
  });
  expect(limits()).toEqual([
    { path: `/${version1}/memory.limit_in_bytes`, limitBytes: 512 * MiB, freeBytes: 412 * MiB },
  ]);
});

test("limits() reads the mount point where its group has another name", () => {
  writeTree(root, {
    "proc/self/cgroup": "4:memory:/../elsewhere\n0::/../elsewhere",
    "proc/self/mountinfo": [
      mountLine("/", "/sys/fs/cgroup/memory", "cgroup", "memory"),
      mountLine("/..", "/sys/fs/cgroup/unified", "cgroup2", "nsdelegate"),
    ].join("\n"),
    [`${version1}/memory.limit_in_bytes`]: GiB,
    [`${version1}/memory.usage_in_bytes`]: 0,
    [`${version2}/unified/memory.max`]: 2 * GiB,
    [`${version2}/unified/memory.current`]: GiB,
  });
  expect(limits().map(({ freeBytes }) => freeBytes)).toEqual([GiB, GiB]);
});

test("limits() reads nested groups of version 1 up to one that does not count its inner groups", () => {
  writeTree(root, {
    "proc/self/cgroup": "4:memory:/outer/middle/inner",
    "proc/self/mountinfo": mountLine("/", "/sys/fs/cgroup/memory", "cgroup", "memory"),
    [`${version1}/outer/middle/inner/memory.limit_in_bytes`]: unlimited,
    [`${version1}/outer/middle/inner/memory.usage_in_bytes`]: GiB,
    [`${version1}/outer/middle/memory.limit_in_bytes`]: 4 * GiB,
    [`${version1}/outer/middle/memory.usage_in_bytes`]: GiB,
    [`${version1}/outer/middle/memory.use_hierarchy`]: 1,
    [`${version1}/outer/memory.limit_in_bytes`]: GiB,
    [`${version1}/outer/memory.usage_in_bytes`]: 0,
    [`${version1}/outer/memory.use_hierarchy`]: 0,
  });
  expect(limits()).toEqual([
    { path: `/${version1}/outer/middle/memory.limit_in_bytes`, limitBytes: 4 * GiB, freeBytes: 3 * GiB },
  ]);
});

test("limits() knows the limit of a group of version 1 that is out of sight", () => {
  writeTree(root, {
    "proc/self/cgroup": "4:memory:/docker/abc",
    "proc/self/mountinfo": mountLine("/docker/abc", "/sys/fs/cgroup/memory", "cgroup", "memory"),
    [`${version1}/memory.limit_in_bytes`]: unlimited,
    [`${version1}/memory.usage_in_bytes`]: GiB,
    [`${version1}/memory.stat`]: `hierarchical_memory_limit ${3 * GiB}`,
  });
  expect(limits()).toMatchObject([{ limitBytes: 3 * GiB, freeBytes: 2 * GiB }]);
});

test("limits() decodes mount points, and skips hierarchies without memory", () => {
  writeTree(root, {
    "proc/self/cgroup": "3:cpuset:/\n0::/a",
    "proc/self/mountinfo": [
      mountLine("/", "/sys/fs/cgroup/cpuset", "cgroup", "cpuset"),
      mountLine("/", "/my\\040groups", "cgroup2", "nsdelegate"),
    ].join("\n"),
    "sys/fs/cgroup/cpuset/memory.limit_in_bytes": 1,
    "my groups/a/memory.max": GiB,
    "my groups/a/memory.current": 0,
  });
  expect(limits()).toEqual([{ path: "/my groups/a/memory.max", limitBytes: GiB, freeBytes: GiB }]);
});

test("limits() is empty where nothing limits memory or nothing can be read", () => {
  expect(limits()).toEqual([]);
  writeTree(root, {
    "proc/self/cgroup": "0::/",
    "proc/self/mountinfo": mountLine("/", "/sys/fs/cgroup", "cgroup2", "nsdelegate"),
  });
  expect(limits()).toEqual([]);
});

test("limits() reads the groups of another process by this process's mounts", () => {
  writeTree(root, {
    "proc/self/cgroup": "0::/own",
    "proc/71/cgroup": "0::/engine",
    "proc/self/mountinfo": mountLine("/", "/sys/fs/cgroup", "cgroup2", "nsdelegate"),
    [`${version2}/engine/memory.max`]: 4 * GiB,
    [`${version2}/engine/memory.current`]: GiB,
  });
  const [limit] = new ControlGroups(root, 71).limits();
  expect(limit).toMatchObject({ limitBytes: 4 * GiB, freeBytes: 3 * GiB });
  expect(limits()).toEqual([]);
});
