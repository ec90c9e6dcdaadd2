/** For the demo, the tests and the benchmark, which work anywhere: a real NPU where one is found, the emulator otherwise. */

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
    // A wrong variable says nothing of whether there is an NPU.
    if (!(error instanceof CamemError) || error.code === "INVALID_CONFIG") throw error;
    return { backend: "emulator", reason: `no NPU was found (${error.code})` };
  }
}

/** Builds the native libraries, chooses the backend and sets `CAMEM_BACKEND`, so that every later allocator uses it. */
export async function selectBackend(): Promise<BackendChoice> {
  await buildNative();
  const choice = await choose();
  process.env["CAMEM_BACKEND"] = choice.backend;
  return choice;
}
