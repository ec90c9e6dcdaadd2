/** Clients wake an engine in two stages, `weights` and then `kv_cache`, and know no other tags. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { CaMemAllocator } from "camem";
import { SleepController } from "camem/server";
import { MiB } from "../../support/device.ts";

let allocator: CaMemAllocator;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
});

afterEach(() => allocator.close());

function allocate(tags: readonly string[]): void {
  for (const tag of tags) allocator.malloc(2 * MiB, { tag }).fill(7);
}

test.each([1, 2] as const)(
  "wakeUp() of weights and then the cache wakes everything after level %d",
  async (level) => {
    allocate(["weights", "kv_cache", "buffers", "adapters", "default"]);
    allocator.defineTag("adapters", { 1: "offload", 2: "offload" });
    await using controller = new SleepController(allocator, { reload: () => undefined });
    await controller.sleep({ level });
    await controller.wakeUp({ tags: ["weights"] });
    expect(controller.status.sleepingTags).toEqual(["kv_cache"]);
    await controller.wakeUp({ tags: ["kv_cache"] });
    expect(controller.isSleeping).toBe(false);
    expect(controller.status.state).toBe("awake");
  },
);

test("wakeUp() of weights wakes what a former sleep kept when the weights are awake", async () => {
  allocate(["weights", "buffers"]);
  await using controller = new SleepController(allocator);
  await controller.sleep({ tags: ["buffers"] });
  expect(await controller.wakeUp({ tags: ["weights"] })).toMatchObject({ alreadyAwake: false });
  expect(controller.status.state).toBe("awake");
});

test("wakeUp() of weights leaves other weights, a kept cache and other engines asleep", async () => {
  const tags = { vision: "a/vision", language: "a/language", kv_cache: "a/kv_cache", buffers: "a/buffers" };
  allocate([...Object.values(tags), "buffers"]);
  await using controller = new SleepController(allocator, { tags, weightTags: ["vision", "language"] });
  allocator.defineTag("a/kv_cache", { 1: "offload" });
  allocator.defineTag("a/vision", { 1: "offload" });
  allocator.defineTag("a/language", { 1: "offload" });
  await allocator.sleep({ tags: ["buffers"] });
  await controller.sleep();
  const { restoreBytes } = controller.plan("wake", { tags: ["language"] }).tags["buffers"] ?? {};
  expect(restoreBytes).toBe(2 * MiB);
  await controller.wakeUp({ tags: ["language"] });
  expect(controller.status.sleepingTags).toEqual(["vision", "kv_cache"]);
  expect(allocator.usage()["buffers"]?.state).toBe("asleep");
});

test("wakeUp() of the cache wakes nothing else", async () => {
  allocate(["weights", "kv_cache", "buffers"]);
  await using controller = new SleepController(allocator);
  await controller.sleep();
  await controller.wakeUp({ tags: ["kv_cache"] });
  expect(controller.status.sleepingTags).toEqual(["weights", "buffers"]);
});
