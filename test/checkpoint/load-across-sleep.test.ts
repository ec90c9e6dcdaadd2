/** Loads that a sleep interrupts: they write the whole checkpoint or reject. */

import { afterEach, beforeEach, expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CaMemAllocator, loadSafetensors, type Tensor } from "camem";
import { checkpointOf } from "../support/checkpoint.ts";
import { codeOf, MiB, pattern } from "../support/device.ts";

const content = pattern(34 * MiB, 5);
let allocator: CaMemAllocator;
let folder: string;
let path: string;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  folder = mkdtempSync(join(tmpdir(), "camem-load-"));
  path = join(folder, "model.safetensors");
  writeFileSync(path, checkpointOf({ layer: content }));
});

afterEach(async () => {
  await allocator.close();
  rmSync(folder, { recursive: true });
});

/** Runs `load`, and `between` once before the second chunk is read. */
async function interrupt<T>(load: () => Promise<T>, between: () => Promise<unknown>): Promise<T> {
  const probe = await open(path);
  const prototype = Object.getPrototypeOf(probe) as typeof probe;
  await probe.close();
  const read = prototype.read;
  let chunks = 0;
  const spy = spyOn(prototype, "read").mockImplementation(async function (
    this: typeof probe,
    ...given: never[]
  ) {
    const [target] = given as unknown as [Uint8Array];
    if (target.length >= MiB && ++chunks === 2) await between();
    return Reflect.apply(read, this, given);
  } as never);
  try {
    return await load();
  } finally {
    spy.mockRestore();
    expect(chunks).toBeGreaterThanOrEqual(2);
  }
}

function bytesOf(tensors: ReadonlyMap<string, Tensor>): Uint8Array | undefined {
  return tensors.get("layer")?.buffer.read();
}

for (const backing of ["host", "file"] as const) {
  test(`loadSafetensors({ backing: "${backing}" }) rejects when a sleep discards its tensors and they wake up`, async () => {
    const load = () => loadSafetensors(path, { allocator, backing });
    const discard = async () => {
      await allocator.sleep({ level: 2 });
      await allocator.wakeUp();
    };
    expect(await codeOf(() => interrupt(load, discard))).toBe("BUFFER_ASLEEP");
    expect(allocator.getCurrentUsage()).toBe(0);
    expect(bytesOf(await load())).toEqual(content);
  });

  test(`loadSafetensors({ into, backing: "${backing}" }) rejects when a sleep discards its tensors`, async () => {
    const into = await loadSafetensors(path, { allocator, tag: "lora" });
    const load = () => loadSafetensors(path, { allocator, into, backing });
    const discard = async () => {
      await allocator.sleep({ level: 1 });
      await allocator.wakeUp();
    };
    expect(await codeOf(() => interrupt(load, discard))).toBe("BUFFER_ASLEEP");
    const [usage] = Object.values(allocator.usage());
    expect(usage?.checkpointBytes).toBe(0);
    await load();
    expect(bytesOf(into)).toEqual(content);
  });
}

test("loadSafetensors() writes everything when a sleep keeps the content and it wakes up", async () => {
  const offload = async () => {
    await allocator.sleep({ level: 1 });
    await allocator.wakeUp();
  };
  const tensors = await interrupt(() => loadSafetensors(path, { allocator }), offload);
  expect(bytesOf(tensors)).toEqual(content);
});

test("loadSafetensors() rejects when its tensors are asleep at the next chunk", async () => {
  const load = () => loadSafetensors(path, { allocator });
  expect(await codeOf(() => interrupt(load, () => allocator.sleep()))).toBe("BUFFER_ASLEEP");
});

test("loadSafetensors({ into }) writes every tensor when the map loses one during the load", async () => {
  const into = new Map(await loadSafetensors(path, { allocator }));
  const layer = into.get("layer");
  layer?.buffer.fill(0);
  await interrupt(
    () => loadSafetensors(path, { allocator, into }),
    async () => into.clear(),
  );
  expect(layer?.buffer.read()).toEqual(content);
});
