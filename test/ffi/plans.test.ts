/** Groups of segments that plans are made of, and the plans that the shim accepts. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator, type DeviceBuffer } from "camem";
import { localNative } from "../../src/ffi/index.ts";
import { codeOf, MiB } from "../support/device.ts";

let allocator: CaMemAllocator;
let weights: DeviceBuffer[];
const everySegment = Number.MAX_SAFE_INTEGER;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  weights = Array.from({ length: 50 }, () => allocator.malloc(2 * MiB, { tag: "weights" }));
});

afterEach(() => allocator.close());

/** A step that discards the only group of segments. */
function planDiscard() {
  const { groups, version } = localNative.segmentGroups(everySegment);
  const [group] = groups;
  if (group === undefined) throw new Error("there is no group");
  const step = {
    group: {
      segments: group.segments,
      segmentBytes: group.segmentBytes,
      tagId: group.tag,
      device: group.device,
      state: "mapped",
      unreleased: false,
      clean: false,
      backedUp: false,
    },
    action: "discard",
    immutable: false,
    zero: false,
    spilledSegments: 0,
  } as const;
  return { step, basis: { lastSegmentId: group.lastSegmentId, version } };
}

const plain = { verify: false, pageable: false, spill: false };

async function ended(ticket: ReturnType<typeof localNative.submitPlan>): Promise<void> {
  if (typeof ticket !== "number") throw new Error(`the plan was refused as ${ticket}`);
  while (localNative.pollPlan(ticket)?.totalNs === 0) await sleep(1);
}

const states = () => new Set(weights.map((buffer) => buffer.state));

test("segmentGroups() groups equal segments in the order of their allocation", async () => {
  allocator.malloc(2 * MiB, { tag: "kv_cache" });
  allocator.malloc(4 * MiB, { tag: "weights" });
  weights[7]?.free();
  expect(localNative.segmentGroups(everySegment).groups).toMatchObject([
    { segments: 49, segmentBytes: 2 * MiB, committedBytes: 98 * MiB, hostBytes: 0, backedUp: 0 },
    { segments: 1, segmentBytes: 2 * MiB },
    { segments: 1, segmentBytes: 4 * MiB },
  ]);
  await allocator.sleep({ tags: ["weights"] });
  expect(localNative.segmentGroups(everySegment).groups).toMatchObject([
    { segments: 49, committedBytes: 0, hostBytes: 98 * MiB, backedUp: 1 },
    { segments: 1, committedBytes: 2 * MiB },
    { segments: 1, hostBytes: 4 * MiB },
  ]);
});

test("plan leaves out segments allocated or freed since it was made", async () => {
  const { step, basis } = planDiscard();
  const younger = allocator.malloc(2 * MiB, { tag: "weights" });
  for (const buffer of weights.splice(10, 20)) buffer.free();
  await ended(localNative.submitPlan([step], basis, plain));
  expect(states()).toEqual(new Set(["discarded"]));
  expect(younger.state).toBe("mapped");
  expect(localNative.segmentGroups(basis.lastSegmentId).groups).toMatchObject([{ segments: 30, state: 3 }]);
});

test("plan spills no more backups when segments were freed since it was made", async () => {
  const { step, basis } = planDiscard();
  for (const buffer of weights.splice(0, 5)) buffer.free();
  await ended(localNative.submitPlan([{ ...step, action: "offload", spilledSegments: 0 }], basis, plain));
  expect(allocator.usage()["weights"]).toMatchObject({ hostBytes: 90 * MiB, spilledBytes: 0 });
});

test("submitPlan() refuses a plan when the segments changed state, and moves nothing", async () => {
  const { step, basis } = planDiscard();
  const submit = (changes: Partial<typeof step.group>) =>
    localNative.submitPlan([{ ...step, group: { ...step.group, ...changes } }], basis, plain);
  expect(submit({ segments: 49 as 50 })).toBe("stale");
  expect(submit({ state: "discarded" as "mapped" })).toBe("stale");
  allocator.defineTag("weights", { immutable: true });
  expect(submit({})).toBe("stale");
  expect(states()).toEqual(new Set(["mapped"]));
  const anew = planDiscard();
  await ended(localNative.submitPlan([anew.step], anew.basis, plain));
  expect(states()).toEqual(new Set(["discarded"]));
  expect(localNative.submitPlan([anew.step], anew.basis, plain)).toBe("stale");
});

test("submitPlan() refuses a plan for segments that were all freed", () => {
  const { step, basis } = planDiscard();
  for (const buffer of weights) buffer.free();
  expect(localNative.submitPlan([step], basis, plain)).toBe("stale");
});

test("submitPlan() refuses an inconsistent plan", async () => {
  const { step, basis } = planDiscard();
  const other = { ...step, group: { ...step.group, segmentBytes: 4 * MiB } };
  const refusalOf = (...steps: Parameters<typeof localNative.submitPlan>[0]) =>
    codeOf(() => localNative.submitPlan(steps, basis, plain));
  expect(await refusalOf()).toBe("INVALID_ARGUMENT");
  expect(await refusalOf(step, step)).toBe("INVALID_ARGUMENT");
  expect(await refusalOf({ ...step, spilledSegments: 51 })).toBe("INVALID_ARGUMENT");
  expect(await refusalOf(step, { ...other, action: "remap" })).toBe("INVALID_ARGUMENT");
  expect(await refusalOf({ ...step, zero: true })).toBe("INVALID_ARGUMENT");
  expect(states()).toEqual(new Set(["mapped"]));
});
