import { expect, test } from "bun:test";
import { actionOf } from "../src/levels.ts";
import {
  bytesOf,
  deviceBytesNeeded,
  hostBytesNeeded,
  planSleep,
  planWake,
  type Segment,
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
    device: 0,
    tag,
    state,
    moving: false,
    unreleased: false,
    ...changes,
  };
}

const policies = new Map(Object.entries(presetPolicies));
const tags = ["weights", "buffers", "kv_cache", "default", "activations", "sleep_persistent"];

function sleepActions(selection: Parameters<typeof actionOf>[0]) {
  const steps = planSleep(
    tags.map((tag) => segment(tag, "mapped")),
    actionOf(selection, policies),
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
  expect(planSleep(asleep, actionOf({ level: 1 }, policies))).toEqual([]);
  expect(planSleep(asleep, actionOf({ level: 2 }, policies)).map((step) => step.action)).toEqual(["discard"]);
  const stuck = asleep.map((each) => ({ ...each, unreleased: true, committedBytes: each.sizeBytes }));
  expect(planSleep(stuck, actionOf({ level: 1 }, policies)).map((step) => step.action)).toEqual([
    "release",
    "release",
  ]);
});

test("a discarded segment that still holds host memory gives it back with the next sleep", () => {
  const dropped = segment("weights", "discarded", { hostBytes: 2 ** 21 });
  expect(planSleep([dropped], actionOf({ level: 1 }, policies)).map((step) => step.action)).toEqual([
    "release",
  ]);
});

test("a wake restores what was offloaded and remaps what was discarded, of the named tags", () => {
  const segments = [
    segment("weights", "offloaded"),
    segment("kv_cache", "discarded"),
    segment("default", "mapped"),
  ];
  expect(planWake(segments, undefined).map((step) => [step.segment.tag, step.action])).toEqual([
    ["weights", "restore"],
    ["kv_cache", "remap"],
  ]);
  expect(planWake(segments, ["kv_cache"]).map((step) => step.segment.tag)).toEqual(["kv_cache"]);
});

test("needs count what is not held already", () => {
  const held = segment("weights", "mapped", { hostBytes: 2 ** 21 });
  const steps = planSleep([held, segment("weights", "mapped")], () => "offload");
  expect(hostBytesNeeded(steps)).toBe(2 ** 21);
  expect(bytesOf(steps, "offload")).toBe(2 ** 22);
  const wake = planWake(
    [
      segment("weights", "offloaded"),
      segment("weights", "offloaded", { committedBytes: 2 ** 21, device: 1 }),
      segment("kv_cache", "discarded", { device: 1 }),
    ],
    undefined,
  );
  expect([...deviceBytesNeeded(wake)]).toEqual([
    [0, 2 ** 21],
    [1, 2 ** 21],
  ]);
});
