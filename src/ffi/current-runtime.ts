import { CamemError } from "../errors.ts";
import { bun } from "./bun.ts";
import { deno } from "./deno.ts";
import type { Runtime } from "./runtime.ts";

/**
 * The runtime of this program.
 *
 * @throws CamemError `BACKEND_UNAVAILABLE` in another runtime than Bun and Deno
 */
export function currentRuntime(): Runtime {
  const { versions } = process;
  if (versions["bun"] !== undefined) return bun;
  if (versions["deno"] !== undefined) return deno;
  throw new CamemError(
    "BACKEND_UNAVAILABLE",
    `camem needs Bun or Deno to call native libraries; this is Node.js ${versions.node}`,
  );
}
