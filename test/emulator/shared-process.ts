/** A process with emulated devices, driven by lines on its input; shared-budget.test.ts starts it. */

import { createInterface } from "node:readline";
import { CaMemAllocator, CamemError, type DeviceBuffer } from "camem";
import { MiB } from "../support/device.ts";

const allocator = CaMemAllocator.getInstance({ backend: "emulator" });
const buffers: DeviceBuffer[] = [];

const verbs: Readonly<Record<string, (argument: number) => unknown>> = {
  allocate: (mebibytes) => {
    const buffer = allocator.malloc(mebibytes * MiB, { tag: "weights" });
    buffer.fill(process.pid % 251);
    buffers.push(buffer);
  },
  free: () => buffers.pop()?.free(),
  sleep: () => allocator.sleep(),
  wake: () => allocator.wakeUp(),
  check: () => buffers.every((buffer) => buffer.read(0, 1)[0] === process.pid % 251),
};

async function answer(line: string): Promise<string> {
  const [verb = "", argument = "0"] = line.split(" ");
  try {
    return String((await verbs[verb]?.(Number(argument))) === false ? "wrong" : "done");
  } catch (error) {
    return error instanceof CamemError ? error.code : String(error);
  }
}

/** Free and total MiB of a device; a dash for one that this process does not see. */
function memory(device: number): string {
  try {
    const { freeBytes, totalBytes } = allocator.memGetInfo(device);
    return `${freeBytes / MiB}/${totalBytes / MiB}`;
  } catch (error) {
    if (error instanceof CamemError && error.code === "UNKNOWN_DEVICE") return "-";
    throw error;
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const outcome = await answer(line);
  console.log(`${outcome} ${memory(0)} ${memory(1)}`);
}
