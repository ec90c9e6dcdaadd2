/** Chooses the backend of the tests and the benchmark: an NPU if there is one, otherwise the emulator. */

import { CaMemAllocator, CamemError } from "camem";
import { buildNative } from "./native.ts";

export interface BackendChoice {
  readonly backend: "ascend" | "emulator";
  readonly reason: string;
}

async function choose(): Promise<BackendChoice> {
  const { CAMEM_BACKEND: backend, CAMEM_ACL_LIBRARY: library } = process.env;
  if (backend === "ascend" || backend === "emulator") return { backend, reason: `CAMEM_BACKEND=${backend}` };
  if (backend)
    throw new CamemError(
      "INVALID_CONFIG",
      `CAMEM_BACKEND is "${backend}"; it must be "ascend" or "emulator"`,
    );
  if (library) return { backend: "ascend", reason: `CAMEM_ACL_LIBRARY=${library}` };
  try {
    await CaMemAllocator.getInstance({ backend: "ascend" }).close();
    return { backend: "ascend", reason: "an NPU was found" };
  } catch (error) {
    // A wrong variable does not show whether there is an NPU.
    if (!(error instanceof CamemError) || error.code === "INVALID_CONFIG") throw error;
    return { backend: "emulator", reason: `no NPU was found (${error.code})` };
  }
}

/** Builds the native libraries and sets `CAMEM_BACKEND` to the chosen backend, for later allocators. */
export async function selectBackend(): Promise<BackendChoice> {
  await buildNative();
  const choice = await choose();
  process.env["CAMEM_BACKEND"] = choice.backend;
  return choice;
}
