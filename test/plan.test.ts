import { expect, test } from "bun:test";
import { treatmentOf } from "../src/levels.ts";
import {
  backupBytesNeeded,
  bytesOf,
  deviceBytesNeeded,
  planSleep,
  planWake,
  type Segment,
  spillBeyond,
} from "../src/plan.ts";
import { presetPolicies } from "../src/tags.ts";

let nextId = 1;

function segment(tag: string, state: Segment["state"], changes: Partial<Segment> = {}): Segment {
  const segmentId = nextId++;
  return {
    address: segmentId * 2 ** 21,
    segmentId,
    sizeBytes: 2 ** 21,
    committedBytes: state === "mapped" ? 2 ** 21 : 0,
    hostBytes: state === "offloaded" ? 2 ** 21 : 0,
    spilledBytes: 0,
    checkpointBytes: 0,
    device: 0,
    tag,
    state,
    moving: false,
    unreleased: false,
    clean: false,
    ...changes,
  };
}

const policies = new Map(Object.entries(presetPolicies));
const never = () => false;
const offload = () => ({ action: "offload", immutable: false }) as const;
const tags = ["weights", "buffers", "kv_cache", "default", "activations", "sleep_persistent"];

function sleepActions(selection: Parameters<typeof treatmentOf>[0]) {
  const steps = planSleep(
    tags.map((tag) => segment(tag, "mapped")),
    treatmentOf(selection, policies),
  );
  return Object.fromEntries(steps.map((step) => [step.segment.tag, step.action]));
}

test("level 1 offloads weights and buffers and discards the rest", () => {
  expect(sleepActions({ level: 1 })).toEqual({
    weights: "offload",
    buffers: "offload",
    kv_cache: "discard",
    default: "discard",
    activations: "discard",
  });
  expect(sleepActions({})).toEqual(sleepActions({ level: 1 }));
});

test("level 2 preserves buffers only", () => {
  expect(sleepActions({ level: 2 })).toEqual({
    weights: "discard",
    buffers: "offload",
    kv_cache: "discard",
    default: "discard",
    activations: "discard",
  });
});

test("level 0 moves nothing", () => {
  expect(sleepActions({ level: 0 })).toEqual({});
});

test("offloadTags offloads those and discards the rest, but never touches sleep_persistent", () => {
  expect(sleepActions({ offloadTags: ["kv_cache", "sleep_persistent"] })).toEqual({
    weights: "discard",
    buffers: "discard",
    kv_cache: "offload",
    default: "discard",
    activations: "discard",
  });
});

test("tags lets only those sleep", () => {
  expect(sleepActions({ level: 1, tags: ["weights", "kv_cache"] })).toEqual({
    weights: "offload",
    kv_cache: "discard",
  });
  expect(sleepActions({ tags: ["weights", "kv_cache"], offloadTags: ["kv_cache"] })).toEqual({
    weights: "discard",
    kv_cache: "offload",
  });
});

test("what is asleep stays so, a deeper sleep drops backups, and unreleased memory is released", () => {
  const asleep = [segment("weights", "offloaded"), segment("kv_cache", "discarded")];
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

test("a wake restores what was offloaded and remaps what was discarded, of the named tags", () => {
  const segments = [
    segment("weights", "offloaded"),
    segment("kv_cache", "discarded"),
    segment("default", "mapped"),
  ];
  expect(planWake(segments, undefined, never).map((step) => [step.segment.tag, step.action])).toEqual([
    ["weights", "restore"],
    ["kv_cache", "remap"],
  ]);
  expect(planWake(segments, ["kv_cache"], never).map((step) => step.segment.tag)).toEqual(["kv_cache"]);
});

test("needs count what is not held already", () => {
  const held = segment("weights", "mapped", { hostBytes: 2 ** 21 });
  const steps = planSleep([held, segment("weights", "mapped")], offload);
  expect(backupBytesNeeded(steps)).toEqual({ hostBytes: 2 ** 21, spillBytes: 0 });
  expect(bytesOf(steps, "offload")).toBe(2 ** 22);
  const wake = planWake(
    [
      segment("weights", "offloaded"),
      segment("weights", "offloaded", { committedBytes: 2 ** 21, device: 1 }),
      segment("kv_cache", "discarded", { device: 1 }),
    ],
    undefined,
    never,
  );
  expect([...deviceBytesNeeded(wake)]).toEqual([
    [0, 2 ** 21],
    [1, 2 ** 21],
  ]);
});

test("what has no room on the host is spilled, and an unchanged backup needs neither", () => {
  const steps = planSleep(
    [
      segment("weights", "mapped"),
      segment("weights", "mapped", { clean: true, hostBytes: 2 ** 21 }),
      segment("weights", "mapped", { clean: true, checkpointBytes: 2 ** 20 }),
      segment("weights", "mapped"),
    ],
    offload,
  );
  const spilled = spillBeyond(steps, 2 ** 21);
  expect(spilled.map((step) => step.spill)).toEqual([false, false, false, true]);
  expect(backupBytesNeeded(spilled)).toEqual({ hostBytes: 2 ** 21, spillBytes: 2 ** 21 });
});

test("the steps of an immutable tag say so, which keeps its backup", () => {
  const asleep = [segment("weights", "offloaded"), segment("kv_cache", "discarded")];
  const steps = planWake(asleep, undefined, (tag) => tag === "weights");
  expect(steps.map((step) => step.immutable)).toEqual([true, false]);
});
