/** Which AscendCL belongs to a backend, and opening the shim, libcamem.so. */

import { CamemError, missingPermission } from "../errors.ts";
import type { Backend } from "../options/backend.ts";
import { currentRuntime } from "./current-runtime.ts";
import type { Exports } from "./exports.ts";
import { libraryPath } from "./library-files.ts";
import { symbols } from "./symbols.gen.ts";

/** The AscendCL library to open for a backend: the given one, the shipped emulator, or null to search for CANN's. */
export function aclLibraryFor(backend: Backend, aclLibrary: string | null): string | null {
  return aclLibrary ?? (backend === "emulator" ? libraryPath("emulator") : null);
}

function openShim(): Exports {
  const path = libraryPath("shim");
  try {
    return currentRuntime().open(path, symbols);
  } catch (cause) {
    const missing = missingPermission(cause);
    if (missing !== undefined) throw missing;
    throw new CamemError(
      "LIBRARY_INVALID",
      `${path} cannot be opened: ${cause}; it needs glibc 2.28 or newer, and a file system without "noexec"`,
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
