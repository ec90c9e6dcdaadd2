/** Loads that a sleep interrupts: they write the whole checkpoint or reject. */

import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, CamemError, loadSafetensors, type Tensor } from "camem";
import { checkpointOf } from "../support/checkpoint.ts";
import { callCount, MiB, onEmulator, pattern, setFaults } from "../support/device.ts";

const content = pattern(192 * MiB, 5);
let allocator: CaMemAllocator;
let folder: string;
let path: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "camem-load-"));
  path = join(folder, "model.safetensors");
  writeFileSync(path, checkpointOf({ layer: content }));
});

afterAll(() => rmSync(folder, { recursive: true }));

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
});

afterEach(() => allocator.close());

/** The code of the error of a load that `between` interrupts once it has copied something. It keeps no memory then. */
async function interrupt(load: () => Promise<unknown>, between: () => Promise<unknown>): Promise<string> {
  const attempts = 20;
  for (let attempt = 0; attempt < attempts; attempt++) {
    setFaults("");
    const usedBefore = allocator.getCurrentUsage();
    let hasEnded = false;
    const loading = load()
      .then(
        () => undefined,
        (error: unknown) => error,
      )
      .finally(() => {
        hasEnded = true;
      });
    while (!hasEnded && callCount("aclrtMemcpy") === 0) await new Promise(setImmediate);
    await between();
    const error = await loading;
    if (error instanceof CamemError) {
      await allocator.wakeUp();
      expect(allocator.getCurrentUsage()).toBeLessThanOrEqual(usedBefore);
      return error.code;
    }
    if (error !== undefined) throw error;
    // It had ended before it was interrupted.
    await allocator.wakeUp();
  }
  throw new Error(`the load was faster than the interruption ${attempts} times`);
}

const interrupted = ["BUFFER_ASLEEP", "BUFFER_MOVING"];

function bytesOf(tensors: ReadonlyMap<string, Tensor>): Uint8Array | undefined {
  return tensors.get("layer")?.buffer.read();
}

const sleepAndWakeUp = (level: 1 | 2) => async () => {
  await allocator.sleep({ level });
  await allocator.wakeUp();
};

test.skipIf(!onEmulator).each([
  ["host", 1],
  ["host", 2],
  ["file", 1],
  ["file", 2],
] as const)(
  'loadSafetensors({ backing: "%s" }) rejects when its tensors sleep at level %d and wake up',
  async (backing, level) => {
    const load = () => loadSafetensors(path, { allocator, backing });
    expect(await interrupt(load, sleepAndWakeUp(level))).toBeOneOf(interrupted);
    expect(bytesOf(await load())).toEqual(content);
  },
);

test.skipIf(!onEmulator).each(["host", "file"] as const)(
  'loadSafetensors({ into, backing: "%s" }) rejects when a sleep discards its tensors',
  async (backing) => {
    const into = await loadSafetensors(path, { allocator, tag: "lora" });
    const load = () => loadSafetensors(path, { allocator, into, backing });
    expect(await interrupt(load, sleepAndWakeUp(1))).toBeOneOf(interrupted);
    const [usage] = Object.values(allocator.usage());
    expect(usage?.checkpointBytes).toBe(0);
    await load();
    expect(bytesOf(into)).toEqual(content);
  },
);

test.skipIf(!onEmulator)("loadSafetensors() rejects when its tensors are asleep", async () => {
  const load = () => loadSafetensors(path, { allocator });
  expect(await interrupt(load, () => allocator.sleep())).toBeOneOf(interrupted);
});

test.skipIf(!onEmulator)("loadSafetensors() rejects when the allocator is closed meanwhile", async () => {
  const load = () => loadSafetensors(path, { allocator });
  const close = async () => {
    await allocator.close();
    allocator = CaMemAllocator.getInstance();
  };
  expect(await interrupt(load, close)).toBe("CLOSED");
});

test.skipIf(!onEmulator)(
  "loadSafetensors() rejects when its signal aborts it, and frees everything",
  async () => {
    const controllers = [new AbortController()];
    const load = () => {
      const controller = new AbortController();
      controllers.unshift(controller);
      return loadSafetensors(path, { allocator, signal: controller.signal });
    };
    expect(await interrupt(load, async () => controllers[0]?.abort())).toBe("ABORTED");
  },
);

test.skipIf(!onEmulator)(
  "loadSafetensors() rejects when the file becomes shorter while it is read",
  async () => {
    const own = join(folder, "shrinking.safetensors");
    const load = () => {
      writeFileSync(own, checkpointOf({ layer: content }));
      return loadSafetensors(own, { allocator });
    };
    const shrink = async () => truncateSync(own, MiB);
    expect(await interrupt(load, shrink)).toBe("SAFETENSORS_INVALID");
  },
);

test.skipIf(!onEmulator)(
  "loadSafetensors({ into }) writes every tensor when the map loses one during the load",
  async () => {
    const into = new Map(await loadSafetensors(path, { allocator }));
    const layer = into.get("layer");
    layer?.buffer.fill(0);
    setFaults("");
    const load = loadSafetensors(path, { allocator, into });
    while (callCount("aclrtMemcpy") === 0) await new Promise(setImmediate);
    into.clear();
    await load;
    expect(layer?.buffer.read()).toEqual(content);
  },
);
