import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const packageOf = (name: string, importer: string) => createRequire(importer).resolve(`${name}/package.json`);

const platformPackage = `@deno/linux-${process.arch}-glibc`;

/** Deno in the package of its platform: what npm puts on the path may be a wrapper, which needs Node. */
export const denoPath = join(dirname(packageOf(platformPackage, packageOf("deno", import.meta.url))), "deno");
