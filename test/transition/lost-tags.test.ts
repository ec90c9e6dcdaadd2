/** Reports and hooks name the tags whose content a sleep has discarded. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { CaMemAllocator, type WakeTransition } from "camem";
import { codeOf, onEmulator, setFaults } from "../support/device.ts";

let allocator: CaMemAllocator;
let seen: WakeTransition[];

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  for (const tag of ["weights", "kv_cache"]) allocator.malloc(1, { tag }).fill(1);
  seen = [];
  allocator.onTransition({ afterWake: (transition) => seen.push(transition) });
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await allocator.close();
});

test("wakeUp() names lost tags when a sleep has discarded them", async () => {
  await allocator.sleep({ level: 1 });
  expect((await allocator.wakeUp()).lostTags).toEqual(["kv_cache"]);
  await allocator.sleep({ offloadTags: ["weights", "kv_cache"] });
  expect((await allocator.wakeUp()).lostTags).toEqual([]);
});

test("sleep() at level 1 offloads nothing when level 2 has discarded the content", async () => {
  await allocator.sleep({ level: 2 });
  const report = await allocator.sleep({ level: 1 });
  expect(report).toMatchObject({ level: 1, alreadySleeping: true, offloadedBytes: 0 });
  expect((await allocator.wakeUp()).lostTags).toEqual(["weights", "kv_cache"]);
});

test("afterWake tells kept content from lost content", async () => {
  await allocator.sleep({ offloadTags: ["weights", "kv_cache"] });
  await allocator.wakeUp();
  await allocator.sleep({ level: 1 });
  await allocator.wakeUp({ tags: ["weights"] });
  await allocator.wakeUp();
  expect(seen).toEqual([
    { tags: ["weights", "kv_cache"], lostTags: [], reason: "wake" },
    { tags: ["weights"], lostTags: [], reason: "wake" },
    { tags: ["kv_cache"], lostTags: ["kv_cache"], reason: "wake" },
  ]);
});

test.skipIf(!onEmulator)("afterWake names lost tags when only giving memory back fails", async () => {
  await allocator.sleep({ level: 1 });
  setFaults("aclrtFreeHost:1=507899");
  expect(await codeOf(() => allocator.wakeUp())).toBe("ACL_CALL_FAILED");
  expect(seen).toEqual([{ tags: ["weights", "kv_cache"], lostTags: ["kv_cache"], reason: "wake" }]);
});

test.skipIf(!onEmulator)("afterWake names no lost tag when a sleep fails", async () => {
  setFaults("aclrtMemcpyAsync:1=507899");
  expect(await codeOf(() => allocator.sleep())).toBe("ACL_CALL_FAILED");
  expect(seen).toEqual([{ tags: ["weights", "kv_cache"], lostTags: [], reason: "sleepFailed" }]);
});
