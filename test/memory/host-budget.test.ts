/** The default host budget follows free memory, and transitions keep to it. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AllocatorOptions, CaMemAllocator } from "camem";
import { localNative } from "../../src/ffi/index.ts";
import {
  describeHostBudget,
  HostBudgets,
  type HostHoldings,
  hostBudget,
} from "../../src/memory/host-budget.ts";
import { HostMemory } from "../../src/memory/host-memory.ts";
import { SegmentTable } from "../../src/memory/table.ts";
import { resolveConfig } from "../../src/options/allocator-options.ts";
import { TagPolicies } from "../../src/policy/tag-policies.ts";
import { Transitions } from "../../src/transition/transitions.ts";
import { callCount, codeOf, failureOf, MiB, onEmulator, setFaults } from "../support/device.ts";
import { GiB, machineFiles, mountLine, writeTree } from "./host-memory-files.ts";

const nothingHeld: HostHoldings = { backupBytes: 0, reusableBytes: 0 };

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "camem-host-budget-"));
});

afterEach(() => rmSync(root, { recursive: true }));

describe("hostBudget", () => {
  const budget = (configuredBytes: number | null = null, holdings = nothingHeld) =>
    hostBudget(configuredBytes, new HostMemory(root), holdings);

  const container = (limitBytes: number, usedBytes: number) => ({
    "proc/self/cgroup": "0::/",
    "proc/self/mountinfo": mountLine("/", "/sys/fs/cgroup", "cgroup2", "nsdelegate"),
    "sys/fs/cgroup/memory.max": limitBytes,
    "sys/fs/cgroup/memory.current": usedBytes,
  });

  test("hostBudget() is free memory less a sixteenth of all memory", () => {
    writeTree(root, machineFiles(16 * GiB, 10 * GiB));
    const path = join(root, "proc/meminfo");
    expect(budget()).toEqual({ sizeBytes: 9 * GiB, source: "machine", path });
    writeTree(root, machineFiles(16 * GiB, GiB / 2));
    expect(budget().sizeBytes).toBe(0);
  });

  test("hostBudget() leaves 4 GiB at most", () => {
    writeTree(root, machineFiles(1536 * GiB, 1000 * GiB));
    expect(budget().sizeBytes).toBe(996 * GiB);
  });

  test("hostBudget() is what the tightest container leaves when that is less", () => {
    writeTree(root, { ...machineFiles(256 * GiB, 200 * GiB), ...container(16 * GiB, 5 * GiB) });
    const path = join(root, "sys/fs/cgroup/memory.max");
    expect(budget()).toEqual({ sizeBytes: 10 * GiB, source: "container", path });
    writeTree(root, { ...machineFiles(256 * GiB, 20 * GiB), ...container(128 * GiB, 5 * GiB) });
    expect(budget()).toMatchObject({ sizeBytes: 16 * GiB, source: "machine" });
  });

  test("hostBudget() includes backups and page-locked memory that exist", () => {
    writeTree(root, machineFiles(16 * GiB, 10 * GiB));
    const holdings = { backupBytes: 3 * GiB, reusableBytes: 2 * GiB };
    expect(budget(null, holdings).sizeBytes).toBe(14 * GiB);
  });

  test("hostBudget() is the option's where it is set, whatever is free", () => {
    writeTree(root, machineFiles(16 * GiB, 10 * GiB));
    expect(budget(40 * GiB)).toEqual({ sizeBytes: 40 * GiB, source: "option", path: null });
    const unlimited = budget(Number.POSITIVE_INFINITY);
    expect(unlimited).toEqual({ sizeBytes: null, source: "option", path: null });
    expect(describeHostBudget(unlimited)).toBe("no limit, from hostBudget (CAMEM_HOST_BUDGET)");
  });

  test("hostBudget() has no limit where nothing can be read", () => {
    expect(budget()).toEqual({ sizeBytes: null, source: "unknown", path: null });
  });

  test("lockLimit() tells whether this process is exempt", () => {
    const limits = (limit: string) =>
      `Limit  Soft Limit  Hard Limit  Units\nMax locked memory  ${limit}  x  bytes`;
    const lockLimit = () => new HostMemory(root).lockLimit();
    expect(lockLimit()).toBeUndefined();
    writeTree(root, {
      "proc/self/limits": limits("8388608"),
      "proc/self/status": "CapEff:\t0000000000000000",
    });
    expect(lockLimit()).toEqual({ limitBytes: 8 * MiB, isExempt: false });
    writeTree(root, {
      "proc/self/limits": limits("unlimited"),
      "proc/self/status": "CapEff:\t0000000000004000",
    });
    expect(lockLimit()).toEqual({ limitBytes: Number.POSITIVE_INFINITY, isExempt: true });
  });
});

const totalBytes = new HostMemory().machine()?.totalBytes ?? 0;
const tooLargeBytes = Math.ceil(totalBytes / GiB) * GiB;

/** Untouched memory of the emulator takes none of the host's; two devices have 128 GiB. */
describe.skipIf(!onEmulator || tooLargeBytes > 128 * GiB)("a sleep larger than free host memory", () => {
  let allocator: CaMemAllocator;

  function open(options: AllocatorOptions = {}): void {
    allocator = CaMemAllocator.getInstance(options);
    const deviceBytes = allocator.memGetInfo().totalBytes;
    for (let left = tooLargeBytes, device = 0; left > 0; left -= deviceBytes, device++)
      allocator.malloc(Math.min(left, deviceBytes), { tag: "weights", device });
  }

  afterEach(async () => {
    setFaults("");
    await allocator.close();
  });

  test("is refused before a byte is copied, naming the budget, its source and the options", async () => {
    open();
    const plan = allocator.plan("sleep");
    expect(plan).toMatchObject({ fits: false, host: { neededBytes: tooLargeBytes } });
    const { budget } = allocator.hostUsage();
    expect(["machine", "container"]).toContain(budget.source);
    expect(plan.host.budget.source).toBe(budget.source);
    setFaults("");
    const error = await failureOf(() => allocator.sleep());
    expect(error.code).toBe("HOST_BUDGET_EXCEEDED");
    for (const part of [
      `needs ${tooLargeBytes / GiB} GiB`,
      `(${budget.path})`,
      "nothing has changed",
      "CAMEM_HOST_BUDGET",
      "CAMEM_SPILL_DIR",
    ])
      expect(error.message).toContain(part);
    expect(callCount("aclrtMallocHost") + callCount("aclrtMemcpyAsync")).toBe(0);
  });

  test("fits where the option says so, and where it spills", async () => {
    open({ hostBudget: "unlimited" });
    expect(allocator.plan("sleep").host).toMatchObject({ freeBytes: null, budget: { source: "option" } });
    expect(allocator.plan("sleep").fits).toBe(true);
    await allocator.close();
    open({ spillDir: root });
    const { host, spill } = allocator.plan("sleep");
    expect(host.neededBytes + (spill?.neededBytes ?? 0)).toBe(tooLargeBytes);
    expect(spill?.neededBytes).toBeGreaterThan(0);
    expect(host.neededBytes).toBeLessThanOrEqual(host.freeBytes ?? 0);
  });
});

describe("transitions", () => {
  test("plan() reads the budget anew each time, and sleep() keeps to it", async () => {
    await using allocator = CaMemAllocator.getInstance();
    allocator.malloc(8 * MiB, { tag: "weights" });
    const table = new SegmentTable(localNative, () => undefined);
    const policies = new TagPolicies(localNative, (tag) => table.tagId(tag));
    const budgets = new HostBudgets(localNative, null, new HostMemory(root));
    const transitions = new Transitions(localNative, resolveConfig(), table, policies, () => true, budgets);
    writeTree(root, machineFiles(16 * GiB, GiB + 6 * MiB));
    expect(transitions.plan("sleep", {})).toMatchObject({
      host: { neededBytes: 8 * MiB, freeBytes: 6 * MiB, budget: { source: "machine" } },
      fits: false,
    });
    expect(await codeOf(() => transitions.sleep({}))).toBe("HOST_BUDGET_EXCEEDED");
    expect(await codeOf(() => transitions.prepare({}))).toBe("HOST_BUDGET_EXCEEDED");
    writeTree(root, machineFiles(16 * GiB, GiB + 9 * MiB));
    expect(transitions.plan("sleep", {}).fits).toBe(true);
    await transitions.prepare({});
    // Prepared memory is taken already.
    writeTree(root, machineFiles(16 * GiB, GiB + MiB));
    expect(transitions.plan("sleep", {}).host).toMatchObject({ neededBytes: 8 * MiB, freeBytes: 9 * MiB });
    await transitions.sleep({});
    expect(transitions.plan("wake", {}).host).toMatchObject({
      freeBytes: MiB,
      budget: { sizeBytes: 9 * MiB },
    });
    await transitions.wakeUp({});
  });

  test("HostBudgets.for reads free memory only where it decides", async () => {
    await using allocator = CaMemAllocator.getInstance();
    allocator.malloc(8 * MiB, { tag: "weights" });
    writeTree(root, machineFiles(16 * GiB, GiB + MiB));
    const derived = new HostBudgets(localNative, null, new HostMemory(root));
    expect(derived.for(0, 0).sizeBytes).toBeNull();
    expect(derived.for(8 * MiB, 0)).toMatchObject({ sizeBytes: MiB, source: "machine" });
    await allocator.prepare();
    expect(derived.for(8 * MiB, 0).sizeBytes).toBeNull();
    expect(derived.for(8 * MiB + 1, 0)).toMatchObject({ sizeBytes: 9 * MiB, source: "machine" });
    const configured = new HostBudgets(localNative, 4 * MiB, new HostMemory(root));
    expect(configured.for(0, 0)).toMatchObject({ sizeBytes: 4 * MiB, source: "option" });
  });
});
