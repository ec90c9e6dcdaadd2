/** What planning sees of the table of segments, and which plans the shim takes. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { CaMemAllocator, type DeviceBuffer } from "camem";
import { pollPlan, portions, submitPlan } from "../src/ffi/native.ts";
import { codeOf, MiB } from "./support/device.ts";

let allocator: CaMemAllocator;
let weights: DeviceBuffer[];
const everySegment = Number.MAX_SAFE_INTEGER;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  weights = Array.from({ length: 50 }, () => allocator.malloc(2 * MiB, { tag: "weights" }));
});

afterEach(() => allocator.close());

/** A step that discards all of the only portion there is. */
function discardAll() {
  const [portion] = portions(everySegment);
  if (portion === undefined) throw new Error("there is no portion");
  return {
    portion: {
      segments: portion.segments,
      segmentBytes: portion.segmentBytes,
      tagId: portion.tag,
      device: portion.device,
      state: "mapped",
      unreleased: false,
      clean: false,
      backedUp: false,
    },
    action: "discard",
    immutable: false,
    spilledSegments: 0,
  } as const;
}

async function ended(ticket: ReturnType<typeof submitPlan>): Promise<void> {
  if (typeof ticket !== "number") throw new Error(`the plan was refused as ${ticket}`);
  while (pollPlan(ticket)?.totalNs === 0) await Bun.sleep(1);
}

const states = () => weights.map((buffer) => buffer.state);

test("segments that are alike are one portion, in the order of their allocation", async () => {
  allocator.malloc(2 * MiB, { tag: "kv_cache" });
  allocator.malloc(4 * MiB, { tag: "weights" });
  weights[7]?.free();
  expect(portions(everySegment)).toMatchObject([
    { segments: 49, segmentBytes: 2 * MiB, committedBytes: 98 * MiB, hostBytes: 0, backedUp: 0 },
    { segments: 1, segmentBytes: 2 * MiB },
    { segments: 1, segmentBytes: 4 * MiB },
  ]);
  await allocator.sleep({ tags: ["weights"] });
  expect(portions(everySegment)).toMatchObject([
    { segments: 49, committedBytes: 0, hostBytes: 98 * MiB, backedUp: 1 },
    { segments: 1, committedBytes: 2 * MiB },
    { segments: 1, hostBytes: 4 * MiB },
  ]);
});

test("segments that are younger than a plan stay as they are", async () => {
  const [known] = portions(everySegment);
  const younger = allocator.malloc(2 * MiB, { tag: "weights" });
  const planned = { ...discardAll(), portion: { ...discardAll().portion, segments: 50 } };
  await ended(submitPlan([planned], known?.lastSegmentId ?? 0, false));
  expect(new Set(states())).toEqual(new Set(["discarded"]));
  expect(younger.state).toBe("mapped");
  expect(portions(known?.lastSegmentId ?? 0)).toMatchObject([{ segments: 50, state: 3 }]);
});

test("a plan is refused when its portion is no longer as it was, and nothing moves", async () => {
  const plan = discardAll();
  weights.pop()?.free();
  expect(submitPlan([plan], everySegment, false)).toBe("stale");
  expect(submitPlan([{ ...plan, portion: { ...plan.portion, segments: 48 } }], everySegment, false)).toBe(
    "stale",
  );
  expect(
    submitPlan([{ ...plan, portion: { ...plan.portion, state: "discarded" } }], everySegment, false),
  ).toBe("stale");
  expect(new Set(states())).toEqual(new Set(["mapped"]));
  await ended(submitPlan([discardAll()], everySegment, false));
  expect(new Set(states())).toEqual(new Set(["discarded"]));
});

test("a plan has to make sense", async () => {
  const plan = discardAll();
  const other = { ...plan, portion: { ...plan.portion, segmentBytes: 4 * MiB } };
  const refusalOf = (...steps: Parameters<typeof submitPlan>[0]) =>
    codeOf(() => submitPlan(steps, everySegment, false));
  expect(await refusalOf()).toBe("INVALID_ARGUMENT");
  expect(await refusalOf(plan, plan)).toBe("INVALID_ARGUMENT");
  expect(await refusalOf({ ...plan, spilledSegments: 51 })).toBe("INVALID_ARGUMENT");
  expect(await refusalOf(plan, { ...other, action: "remap" })).toBe("INVALID_ARGUMENT");
  expect(new Set(states())).toEqual(new Set(["mapped"]));
});
