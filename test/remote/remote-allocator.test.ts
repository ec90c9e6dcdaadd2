import { beforeAll, expect, test } from "bun:test";
import { RemoteAllocator } from "../../src/remote/remote-allocator.ts";
import { buildControlProgram, startControlProgram } from "../support/control-program.ts";
import { MiB } from "../support/device.ts";

const buildTimeoutMs = 300_000;

beforeAll(buildControlProgram, buildTimeoutMs);

test("sleep() and wakeUp() move an engine's memory, and its content is the same", async () => {
  await using engine = await startControlProgram(["default=6", "kv=4"]);
  await using allocator = await RemoteAllocator.connect({ path: engine.path });
  const before = allocator.memGetInfo().freeBytes;
  const report = await allocator.sleep();
  expect(report).toMatchObject({ level: 1, offloadedBytes: 10 * MiB, discardedBytes: 0 });
  expect(allocator.isSleeping).toBe(true);
  expect(allocator.memGetInfo().freeBytes - before).toBe(10 * MiB);
  expect(allocator.hostUsage().pageLockedBytes).toBe(10 * MiB);
  expect(await allocator.wakeUp()).toMatchObject({ restoredBytes: 10 * MiB, stillAsleep: [] });
  expect(await engine.tell("verify")).toBe("equal");
});
