import { createRequire } from "node:module";
import { dirname, join } from "node:path";

/** Deno without its wrapper, which needs Node. */
export const denoPath = join(dirname(createRequire(import.meta.url).resolve("deno/package.json")), "deno");
