/** The contract of the allocator: every combination of level and tags keeps addresses and content, and moves free memory by
 * exactly the reported bytes. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { CaMemAllocator, type DeviceBuffer, type SleepOptions } from "camem";
import { granulesBetween, MiB, pattern } from "./support/device.ts";

/** Sizes that are and are not a multiple of the granularity. */
const sizes = {
  weights: 5 * MiB + 3,
  buffers: 1,
  kv_cache: 4 * MiB,
  default: 2 * MiB - 1,
  sleep_persistent: 3 * MiB,
};
type Tag = keyof typeof sizes;
const tags = Object.keys(sizes) as Tag[];
const granularity = 2 * MiB;
const mappedBytes = (tag: Tag) => Math.ceil(sizes[tag] / granularity) * granularity;

/** All subsets of the tags. */
const subsets = Array.from({ length: 2 ** tags.length }, (_, bits) =>
  tags.filter((_, index) => bits & (1 << index)),
);

type Fate = "kept" | "offloaded" | "discarded";
const stateAfter = { kept: "mapped", offloaded: "offloaded", discarded: "discarded" } as const;

/** The documented policy, written independently of the code. */
function expectedFate(tag: Tag, options: SleepOptions): Fate {
  if (tag === "sleep_persistent" || options.level === 0) return "kept";
  if (options.tags && !options.tags.includes(tag)) return "kept";
  if (options.offloadTags) return options.offloadTags.includes(tag) ? "offloaded" : "discarded";
  const preserved = options.level === 2 ? ["buffers"] : ["weights", "buffers"];
  return preserved.includes(tag) ? "offloaded" : "discarded";
}

const requests: SleepOptions[] = [
  {},
  { level: 0 },
  { level: 1 },
  { level: 2 },
  ...subsets.map((offloadTags) => ({ offloadTags })),
  ...subsets.map((chosen) => ({ level: 1 as const, tags: chosen })),
  ...subsets.map((chosen) => ({ level: 2 as const, tags: chosen })),
];

let allocator: CaMemAllocator;
let buffers: Map<Tag, DeviceBuffer>;
const contents = new Map(tags.map((tag, index) => [tag, pattern(sizes[tag], index + 1)]));

beforeAll(() => {
  allocator = CaMemAllocator.getInstance();
  buffers = new Map(tags.map((tag) => [tag, allocator.malloc(sizes[tag], { tag })]));
});

afterAll(() => allocator.close());

function sum(fates: Map<Tag, Fate>, fate: Fate): number {
  return tags.reduce((total, tag) => total + (fates.get(tag) === fate ? mappedBytes(tag) : 0), 0);
}

describe.each(requests.map((request) => [JSON.stringify(request), request] as const))(
  "sleep(%s)",
  (_, request) => {
    const fates = new Map(tags.map((tag) => [tag, expectedFate(tag, request)]));

    test("frees the reported bytes, and wakeUp() restores all content", async () => {
      for (const [tag, buffer] of buffers) buffer.write(contents.get(tag) ?? new Uint8Array());
      const addresses = [...buffers.values()].map((buffer) => buffer.ptr);
      const { freeBytes } = allocator.memGetInfo();

      const sleep = await allocator.sleep(request);
      const asleepBytes = sum(fates, "offloaded") + sum(fates, "discarded");
      expect(granulesBetween(allocator.memGetInfo().freeBytes - freeBytes, asleepBytes)).toBe(0);
      expect(sleep).toMatchObject({
        offloadedBytes: sum(fates, "offloaded"),
        discardedBytes: sum(fates, "discarded"),
        keptBytes: sum(fates, "kept"),
        freedBytes: asleepBytes,
        alreadySleeping: false,
      });
      expect(allocator.isSleeping).toBe(asleepBytes > 0);
      for (const [tag, buffer] of buffers) expect(buffer.state).toBe(stateAfter[fates.get(tag) ?? "kept"]);

      const wake = await allocator.wakeUp();
      expect(granulesBetween(allocator.memGetInfo().freeBytes, freeBytes)).toBe(0);
      expect(wake).toMatchObject({
        restoredBytes: sum(fates, "offloaded"),
        remappedBytes: sum(fates, "discarded"),
        lostTags: tags.filter((tag) => fates.get(tag) === "discarded"),
        stillAsleep: [],
        alreadyAwake: asleepBytes === 0,
      });
      expect(allocator.isSleeping).toBe(false);
      expect([...buffers.values()].map((buffer) => buffer.ptr)).toEqual(addresses);
      for (const [tag, buffer] of buffers) {
        if (fates.get(tag) !== "discarded")
          expect(buffer.read()).toEqual(contents.get(tag) ?? new Uint8Array());
      }
      expect(Object.values(allocator.usage()).every((usage) => usage.hostBytes === 0)).toBe(true);
    });
  },
);

test("wakeUp({ tags }) takes exactly the memory of its tag, and the last tag ends the sleep", async () => {
  for (const [tag, buffer] of buffers) buffer.write(contents.get(tag) ?? new Uint8Array());
  await allocator.sleep();
  const asleep = tags.filter((tag) => tag !== "sleep_persistent");
  for (const [index, tag] of asleep.entries()) {
    const { freeBytes } = allocator.memGetInfo();
    expect(allocator.isSleeping).toBe(true);
    const report = await allocator.wakeUp({ tags: [tag] });
    expect(granulesBetween(freeBytes - allocator.memGetInfo().freeBytes, mappedBytes(tag))).toBe(0);
    expect(report.stillAsleep.toSorted()).toEqual(asleep.slice(index + 1).toSorted());
  }
  expect(allocator.isSleeping).toBe(false);
  expect(buffers.get("weights")?.read()).toEqual(contents.get("weights") ?? new Uint8Array());
});

test("wakeUp() of kv_cache leaves other tags asleep after level 2", async () => {
  buffers.get("buffers")?.write(new Uint8Array([42]));
  await allocator.sleep({ level: 2 });
  await allocator.wakeUp({ tags: ["kv_cache"] });
  expect(buffers.get("weights")?.state).toBe("discarded");
  expect(buffers.get("buffers")?.state).toBe("offloaded");
  await allocator.wakeUp({ tags: ["weights"] });
  buffers.get("weights")?.write(contents.get("weights") ?? new Uint8Array());
  await allocator.wakeUp();
  expect(buffers.get("buffers")?.read()).toEqual(new Uint8Array([42]));
  expect(buffers.get("weights")?.read()).toEqual(contents.get("weights") ?? new Uint8Array());
});

test("sleep() moves only awake memory after a partial wake-up", async () => {
  buffers.get("weights")?.write(contents.get("weights") ?? new Uint8Array());
  await allocator.sleep();
  await allocator.wakeUp({ tags: ["kv_cache"] });
  const again = await allocator.sleep();
  expect(again).toMatchObject({
    offloadedBytes: 0,
    discardedBytes: mappedBytes("kv_cache"),
    alreadySleeping: false,
  });
  await allocator.wakeUp();
  expect(buffers.get("weights")?.read()).toEqual(contents.get("weights") ?? new Uint8Array());
});

test("sleep({ level: 2 }) drops the backups of level 1", async () => {
  await allocator.sleep({ level: 1 });
  expect(allocator.usage()["weights"]?.hostBytes).toBe(mappedBytes("weights"));
  const deeper = await allocator.sleep({ level: 2 });
  expect(deeper).toMatchObject({
    discardedBytes: mappedBytes("weights"),
    freedBytes: 0,
    alreadySleeping: false,
  });
  expect(allocator.usage()["weights"]).toMatchObject({
    hostBytes: 0,
    discardedBytes: mappedBytes("weights"),
  });
  expect((await allocator.wakeUp()).lostTags).toContain("weights");
});

test("sleep() and wakeUp() leave free device and host memory unchanged after five cycles", async () => {
  const before = allocator.memGetInfo().freeBytes;
  for (let cycle = 0; cycle < 5; cycle++) {
    await allocator.sleep();
    await allocator.wakeUp();
    expect(granulesBetween(allocator.memGetInfo().freeBytes, before)).toBe(0);
  }
});
