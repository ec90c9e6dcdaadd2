/** Tags without a policy: discarded with a warning, offloaded or refused. */

import { afterEach, expect, spyOn, test } from "bun:test";
import { type AllocatorOptions, CaMemAllocator, type DeviceBuffer } from "camem";
import { codeOf } from "../support/device.ts";

let allocator: CaMemAllocator;

function open(unknownTags: NonNullable<AllocatorOptions["unknownTags"]>): DeviceBuffer {
  allocator = CaMemAllocator.getInstance({ unknownTags });
  const buffer = allocator.malloc(1, { tag: "Weights" });
  buffer.fill(7);
  return buffer;
}

afterEach(() => allocator.close());

/** The warnings that `run` emits. */
async function warningsOf(run: () => Promise<unknown>): Promise<string[]> {
  const warn = spyOn(process, "emitWarning").mockImplementation(() => undefined);
  try {
    await run();
    return warn.mock.calls.map(([warning]) => String(warning));
  } finally {
    warn.mockRestore();
  }
}

test("sleep() warns once when it discards a tag without a policy", async () => {
  const buffer = open("discard");
  allocator.malloc(1, { tag: "kv_cache" });
  const warnings = await warningsOf(async () => {
    allocator.plan("sleep");
    for (let round = 0; round < 2; round++) {
      await allocator.sleep();
      expect(buffer.state).toBe("discarded");
      await allocator.wakeUp();
    }
  });
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toContain('"Weights"');
});

test("sleep() emits no warning when the caller names the tags to offload, or the tag has a policy", async () => {
  open("discard");
  const warnings = await warningsOf(async () => {
    await allocator.sleep({ offloadTags: [] });
    await allocator.wakeUp();
    allocator.defineTag("Weights", {});
    await allocator.sleep();
  });
  expect(warnings).toEqual([]);
});

test.each([1, 2] as const)(
  "sleep({ level: %p }) offloads a tag without a policy with unknownTags offload",
  async (level) => {
    const buffer = open("offload");
    await allocator.sleep({ level });
    expect(buffer.state).toBe("offloaded");
    expect((await allocator.wakeUp()).lostTags).toEqual([]);
    expect(buffer.read()).toEqual(new Uint8Array([7]));
  },
);

test("sleep(), prepare() and plan() refuse a tag without a policy with unknownTags refuse", async () => {
  const buffer = open("refuse");
  expect(await codeOf(() => allocator.sleep())).toBe("UNKNOWN_TAG");
  expect(await codeOf(() => allocator.prepare())).toBe("UNKNOWN_TAG");
  expect(await codeOf(() => allocator.plan("sleep"))).toBe("UNKNOWN_TAG");
  expect(buffer.read()).toEqual(new Uint8Array([7]));
  await allocator.sleep({ tags: ["weights"] });
  await allocator.sleep({ offloadTags: ["Weights"] });
  await allocator.wakeUp();
  allocator.defineTag("Weights", { 1: "offload" });
  await allocator.sleep();
  await allocator.wakeUp();
  expect(buffer.read()).toEqual(new Uint8Array([7]));
});
