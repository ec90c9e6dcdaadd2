/** The native libraries: where they are, which AscendCL belongs to a backend, and opening the shim, libcamem.so. */

import { dlopen } from "bun:ffi";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { CamemError } from "../errors.ts";
import type { Backend } from "../options/backend.ts";
import type { Exports } from "./exports.ts";
import { symbols } from "./symbols.gen.ts";

/** This platform's libraries, at the same place in a checkout (`zig build` fills it) and in the package. */
const nativeFolder = join(import.meta.dir, "../../native", `${process.platform}-${process.arch}`);
export const emulatorLibraryPath = join(nativeFolder, "emulator/libascendcl.so");
export const shimPath = join(nativeFolder, "libcamem.so");

/** The AscendCL library to open for a backend: the given one, the shipped emulator, or null to search for CANN's. */
export function aclLibraryFor(backend: Backend, aclLibrary: string | null): string | null {
  return aclLibrary ?? (backend === "emulator" ? emulatorLibraryPath : null);
}

function openShim(): Exports {
  if (!existsSync(shimPath))
    throw new CamemError(
      "LIBRARY_NOT_FOUND",
      `${shimPath} does not exist: camem ships its shim for linux-x64 and linux-arm64 with glibc; in a checkout, run "bun run build"`,
    );
  try {
    return dlopen(shimPath, symbols).symbols;
  } catch (cause) {
    throw new CamemError(
      "LIBRARY_INVALID",
      `${shimPath} cannot be opened: ${cause}; it needs glibc 2.28 or newer`,
      { cause },
    );
  }
}

let shim: Exports | undefined;

/** @internal The exports of the shim; opened on first use, once per process. */
export function exports(): Exports {
  shim ??= openShim();
  return shim;
}
