import { CaMemAllocator, CamemError } from "camem";

export interface BackendChoice {
  readonly backend: "ascend" | "emulator";
  /** Why it was chosen. */
  readonly reason: string;
}

/** The backend of the environment, else a real NPU if there is one, else the emulator. */
export async function chooseBackend(): Promise<BackendChoice> {
  const { CAMEM_BACKEND: backend, CAMEM_ACL_LIBRARY: library } = process.env;
  if (backend === "ascend" || backend === "emulator") return { backend, reason: `CAMEM_BACKEND=${backend}` };
  if (library && !backend) return { backend: "ascend", reason: `CAMEM_ACL_LIBRARY=${library}` };
  try {
    await CaMemAllocator.getInstance({ backend: "ascend" }).close();
    return { backend: "ascend", reason: "an NPU was found" };
  } catch (error) {
    // A bad variable does not show whether there is an NPU.
    if (!(error instanceof CamemError) || error.code === "INVALID_CONFIG") throw error;
    return { backend: "emulator", reason: `no NPU was found (${error.code})` };
  }
}
