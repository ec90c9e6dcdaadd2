/** Checkpoints that the process under torture loads, and loads again. */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CamemErrorCode, loadSafetensors } from "camem";
import { checkpointOf } from "../support/checkpoint.ts";
import { MiB } from "../support/device.ts";
import { free, type Operation } from "./operations.ts";
import type { Checkpoint, World } from "./world.ts";

const crowd = 20;

let number = 0;

const loadRefusals: readonly CamemErrorCode[] = [
  "OUT_OF_DEVICE_MEMORY",
  "BUFFER_ASLEEP",
  "BUFFER_MOVING",
  "BUFFER_IMMUTABLE",
  "ABORTED",
];

/** The content of a load's tensors, or that it is not known. */
function note(world: World, { tensors, contents }: Checkpoint, known: boolean): void {
  for (const live of world.lives) {
    const tensor = [...tensors.values()].find(({ buffer }) => buffer === live.buffer);
    if (tensor) live.content = known ? contents.get(tensor.name)?.slice() : undefined;
  }
}

export const load: Operation = async (world, random, log) => {
  if (world.lives.length > crowd) return free(world, random, log);
  const count = random.between(1, 4);
  const contents = new Map<string, Uint8Array>();
  for (let each = 0; each < count; each++)
    contents.set(`t${each}`, random.bytes(random.magnitude(1, 2 * MiB)));
  const path = join(world.folder, `${number++}.safetensors`);
  writeFileSync(path, checkpointOf(Object.fromEntries(contents)));
  const backing = random.pick(["host", "file"] as const);
  const tag = random.pick(["weights", "adapters"]);
  const signal = random.oneIn(8) ? AbortSignal.timeout(random.below(4)) : undefined;
  log(`load ${count} tensors of ${tag}, backing ${backing}${signal ? ", aborted" : ""}`);
  const { value: tensors } = await world.attempt("load", loadRefusals, () =>
    loadSafetensors(path, { allocator: world.opened, tag, backing, ...(signal && { signal }) }),
  );
  if (tensors === undefined) return;
  for (const { name, buffer } of tensors.values()) {
    const { ptr: address, sizeBytes, device } = buffer;
    const content = contents.get(name)?.slice();
    world.lives.push({ address, sizeBytes, tag, device, buffer, content });
  }
  world.checkpoints.push({ path, contents, tensors });
};

export const reload: Operation = async (world, random, log) => {
  if (world.checkpoints.length === 0) return log("reload nothing");
  const checkpoint = random.pick(world.checkpoints);
  const backing = random.pick(["host", "file"] as const);
  log(`reload ${checkpoint.tensors.size} tensors, backing ${backing}`);
  const { error } = await world.attempt("reload", loadRefusals, () =>
    loadSafetensors(checkpoint.path, { allocator: world.opened, into: checkpoint.tensors, backing }),
  );
  const isUntouched = error && ["BUFFER_ASLEEP", "BUFFER_MOVING", "BUFFER_IMMUTABLE"].includes(error.code);
  if (error === undefined) note(world, checkpoint, true);
  else if (!isUntouched) note(world, checkpoint, false);
};
