/** Liveness, to everybody: a probe has no token, and the answer tells nothing else. */

import type { EngineGroup } from "../pool/engine-group.ts";
import type { Answer, Routes } from "./route.ts";

export function healthRoutes({ engines }: EngineGroup): Routes {
  const health: Answer = async () => {
    const hasFailed = [...engines.values()].some((engine) => engine.status.state === "failed");
    return new Response(null, { status: hasFailed ? 503 : 200 });
  };
  const check = () => undefined;
  return {
    "/health": { GET: health, check },
    "/ping": { GET: health, POST: health, check, readsOnly: true },
  };
}
