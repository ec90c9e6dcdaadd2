import type * as PromClient from "prom-client";
import { CamemError } from "../errors.ts";

/**
 * Loads the optional peer dependency on first use.
 *
 * @throws CamemError `LIBRARY_NOT_FOUND`
 */
export async function loadPromClient(): Promise<typeof PromClient> {
  try {
    return await import("prom-client");
  } catch (cause) {
    throw new CamemError(
      "LIBRARY_NOT_FOUND",
      "camem/metrics needs prom-client 15, which could not be loaded; install it: bun add prom-client",
      { cause },
    );
  }
}
