import { expect, test } from "bun:test";
import type { SegmentGroup } from "../../src/memory/table.ts";
import { presetPolicies, treatmentOf } from "../../src/policy/tag-policies.ts";
import {
  backupBytesNeeded,
  deviceBytesNeeded,
  planSleep,
  planWake,
  sizeBytesOf,
  spillBeyond,
} from "../../src/transition/plan.ts";

const segmentBytes = 2 ** 21;

/** Segments of 2 MiB, by default one. */
function group(tag: string, state: SegmentGroup["state"], changes: Partial<SegmentGroup> = {}): SegmentGroup {
  const segments = changes.segments ?? 1;
  const sizeBytes = segments * segmentBytes;
  return {
    segments,
    segmentBytes,
    sizeBytes,
    committedBytes: state === "mapped" ? sizeBytes : 0,
    hostBytes: state === "offloaded" ? sizeBytes : 0,
    fileBytes: 0,
    device: 0,
    tag,
    tagId: 0,
    state,
    moving: false,
    unreleased: false,
    clean: false,
    backedUp: state === "offloaded",
    ...changes,
  };
}

const policies = presetPolicies;
const never = () => undefined;
const offload = () => ({ action: "offload", immutable: false, isUnknown: false }) as const;
const tags = ["weights", "buffers", "kv_cache", "default", "activations", "sleep_persistent"];

function sleepActions(selection: Parameters<typeof treatmentOf>[0]) {
  const steps = planSleep(
    tags.map((tag) => group(tag, "mapped")),
    treatmentOf(selection, policies),
  );
  return Object.fromEntries(steps.map((step) => [step.group.tag, step.action]));
}

test("plan() at level 1 offloads weights and buffers and discards the rest", () => {
  expect(sleepActions({ level: 1 })).toEqual({
    weights: "offload",
    buffers: "offload",
    kv_cache: "discard",
    default: "discard",
    activations: "discard",
  });
  expect(sleepActions({})).toEqual(sleepActions({ level: 1 }));
});

test("plan() at level 2 preserves only buffers", () => {
  expect(sleepActions({ level: 2 })).toEqual({
    weights: "discard",
    buffers: "offload",
    kv_cache: "discard",
    default: "discard",
    activations: "discard",
  });
});

test("plan() at level 0 moves nothing", () => {
  expect(sleepActions({ level: 0 })).toEqual({});
});

test("plan({ offloadTags }) offloads these tags and discards all others except sleep_persistent", () => {
  expect(sleepActions({ offloadTags: ["kv_cache", "sleep_persistent"] })).toEqual({
    weights: "discard",
    buffers: "discard",
    kv_cache: "offload",
    default: "discard",
    activations: "discard",
  });
});

test("plan({ tags }) moves only these tags", () => {
  expect(sleepActions({ level: 1, tags: ["weights", "kv_cache"] })).toEqual({
    weights: "offload",
    kv_cache: "discard",
  });
  expect(sleepActions({ tags: ["weights", "kv_cache"], offloadTags: ["kv_cache"] })).toEqual({
    weights: "discard",
    kv_cache: "offload",
  });
});

test("plan() of a deeper sleep drops backups and releases unreleased memory", () => {
  const asleep = [group("weights", "offloaded"), group("kv_cache", "discarded")];
  expect(planSleep(asleep, treatmentOf({ level: 1 }, policies))).toEqual([]);
  expect(planSleep(asleep, treatmentOf({ level: 2 }, policies)).map((step) => step.action)).toEqual([
    "discard",
  ]);
  const stuck = asleep.map((each) => ({ ...each, unreleased: true, committedBytes: each.sizeBytes }));
  expect(planSleep(stuck, treatmentOf({ level: 1 }, policies)).map((step) => step.action)).toEqual([
    "release",
    "release",
  ]);
});

test("plan() of a wake-up restores offloaded and remaps discarded memory of the named tags", () => {
  const groups = [group("weights", "offloaded"), group("kv_cache", "discarded"), group("default", "mapped")];
  expect(planWake(groups, undefined, never).map((step) => [step.group.tag, step.action])).toEqual([
    ["weights", "restore"],
    ["kv_cache", "remap"],
  ]);
  expect(planWake(groups, ["kv_cache"], never).map((step) => step.group.tag)).toEqual(["kv_cache"]);
});

test("plan() counts only host memory that is not held already", () => {
  const held = group("weights", "mapped", { hostBytes: 2 ** 21, backedUp: true });
  const steps = planSleep([held, group("weights", "mapped")], offload);
  expect(backupBytesNeeded(steps)).toEqual({ hostBytes: 2 ** 21, spillBytes: 0 });
  expect(sizeBytesOf(steps, "offload")).toBe(2 ** 22);
  const wake = planWake(
    [
      group("weights", "offloaded"),
      group("weights", "offloaded", { committedBytes: 2 ** 21, device: 1 }),
      group("kv_cache", "discarded", { device: 1 }),
    ],
    undefined,
    never,
  );
  expect([...deviceBytesNeeded(wake)]).toEqual([
    [0, 2 ** 21],
    [1, 2 ** 21],
  ]);
});

test("plan() spills beyond the host budget, and not for an unchanged backup", () => {
  const clean = { clean: true, backedUp: true };
  const steps = planSleep(
    [
      group("weights", "mapped", { segments: 3 }),
      group("weights", "mapped", { ...clean, hostBytes: segmentBytes }),
      group("weights", "mapped", { ...clean, fileBytes: segmentBytes / 2 }),
      group("weights", "mapped", { segments: 2, segmentBytes: 2 * segmentBytes }),
      group("weights", "mapped", { segments: 5 }),
    ],
    offload,
  );
  const spilled = spillBeyond(steps, 6 * segmentBytes - 1);
  expect(spilled.map((step) => step.spilledSegments)).toEqual([0, 0, 0, 1, 5]);
  expect(backupBytesNeeded(spilled)).toEqual({ hostBytes: 5 * segmentBytes, spillBytes: 7 * segmentBytes });
});

test("plan() marks the steps of an immutable tag, whose backup stays", () => {
  const asleep = [group("weights", "offloaded"), group("kv_cache", "discarded")];
  const steps = planWake(asleep, undefined, (tag) => ({ immutable: tag === "weights" }));
  expect(steps.map((step) => step.immutable)).toEqual([true, false]);
});

test("plan() zeroes remapped memory as the wake-up says, else as the policy of its tag says", () => {
  const asleep = [
    group("weights", "offloaded"),
    group("kv_cache", "discarded"),
    group("default", "discarded"),
  ];
  const zeroes = (zero?: boolean) =>
    planWake(asleep, undefined, (tag) => ({ zero: tag !== "default" }), zero).map((step) => step.zero);
  expect(zeroes()).toEqual([false, true, false]);
  expect(zeroes(true)).toEqual([false, true, true]);
  expect(zeroes(false)).toEqual([false, false, false]);
});
