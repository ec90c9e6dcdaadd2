/** Opens and reads a checkpoint. */

import { constants, type FileHandle, open } from "node:fs/promises";
import type { TimeSlices } from "../async/time-slices.ts";
import { type CamemError, messageOf, missingPermission } from "../errors.ts";
import {
  invalid,
  lengthFieldBytes,
  parseHeaderLength,
  parseSafetensorsHeader,
  type SafetensorsHeader,
} from "./header.ts";

/** @throws CamemError `SAFETENSORS_INVALID`, or `PERMISSION_MISSING` with the flag of Deno that grants it */
export async function openCheckpoint(path: string): Promise<FileHandle> {
  try {
    // Opening a FIFO without a writer would block.
    return await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw missingPermission(error) ?? unreadable(path, error);
  }
}

function unreadable(path: string, error: unknown): CamemError {
  const reason = messageOf(error);
  return invalid(
    path,
    `the checkpoint cannot be read (${reason})`,
    "Give the path of a readable .safetensors file.",
    error,
  );
}

/** @throws CamemError `SAFETENSORS_INVALID` */
export async function readHeader(
  handle: FileHandle,
  path: string,
  slices: TimeSlices,
): Promise<SafetensorsHeader> {
  const file = await handle.stat();
  if (!file.isFile()) {
    throw invalid(path, "the checkpoint is not a regular file", "Give the path of a .safetensors file.");
  }
  const lengthField = new Uint8Array(Math.min(lengthFieldBytes, file.size));
  await readExactly(handle, lengthField, 0, path);
  // Checked before allocating: a damaged length could ask for gigabytes of host memory.
  const headerBytes = parseHeaderLength(lengthField, file.size, path);
  const bytes = new Uint8Array(lengthFieldBytes + headerBytes);
  await readExactly(handle, bytes, 0, path);
  return parseSafetensorsHeader(bytes, file.size, path, slices);
}

/** Fills `target` from byte `positionBytes` of the file on. */
export async function readExactly(
  handle: FileHandle,
  target: Uint8Array,
  positionBytes: number,
  path: string,
): Promise<void> {
  let doneBytes = 0;
  while (doneBytes < target.length) {
    const bytesRead = await readSome(handle, target.subarray(doneBytes), positionBytes + doneBytes, path);
    if (bytesRead === 0) {
      throw invalid(
        path,
        `the file ends at byte ${positionBytes + doneBytes}, while it is being read`,
        "Load again once nothing writes to the file.",
      );
    }
    doneBytes += bytesRead;
  }
}

async function readSome(
  handle: FileHandle,
  target: Uint8Array,
  positionBytes: number,
  path: string,
): Promise<number> {
  try {
    const { bytesRead } = await handle.read(target, 0, target.length, positionBytes);
    return bytesRead;
  } catch (error) {
    throw unreadable(path, error);
  }
}
