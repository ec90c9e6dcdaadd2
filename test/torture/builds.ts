/** The libraries of a run: the one that makes the C library fail, and the shim as it is shipped or with safety checks. */

import { cpSync, existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { buildNative, zigBuild, zigPath } from "../../scripts/native.ts";
import { shimPath } from "../../src/ffi/index.ts";

export const builds = ["shipped", "safe"] as const;
export type Build = (typeof builds)[number];

export interface Libraries {
  readonly preload: string;
  readonly shim: string;
}

function compilePreload(folder: string): string {
  const library = join(folder, "libtorture.so");
  const flags = [
    "-shared",
    "-fPIC",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-sanitize=undefined",
    "-pthread",
  ];
  const source = join(import.meta.dir, "preload.c");
  const result = Bun.spawnSync([zigPath(), "cc", ...flags, source, "-o", library]);
  if (result.exitCode !== 0) throw new Error(`preload.c does not compile:\n${result.stderr}`);
  return library;
}

/** Builds what a run needs into `folder`. The safe build is a debug build with symbols, so that a crash has a stack trace. */
export async function buildLibraries(build: Build, folder: string): Promise<Libraries> {
  mkdirSync(folder, { recursive: true });
  await buildNative();
  const shim = join(folder, "libcamem.so");
  if (build === "shipped") cpSync(shimPath, shim);
  else {
    const prefix = join(folder, "safe");
    await zigBuild("-Dshim-optimize=Debug", "--prefix", prefix);
    cpSync(join(prefix, `${process.platform}-${process.arch}`, "libcamem.so"), shim);
  }
  if (!existsSync(shim)) throw new Error(`${shim} was not built`);
  return { preload: compilePreload(folder), shim };
}
