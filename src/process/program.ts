/** Finds a program, and checks that the library to preload fits this machine. */

import { accessSync, constants, statSync } from "node:fs";
import { CamemError, formatValue, messageOf } from "../errors.ts";
import { type ElfFile, readElf } from "./elf.ts";

/** A program that can be started. */
export interface Program {
  readonly path: string;
  /** Why the library may have no effect in it; undefined where nothing speaks against it. */
  readonly warning: string | undefined;
}

/**
 * Finds `name` as a shell does.
 *
 * @throws CamemError `INVALID_CONFIG` when there is no such program, or when it is for another architecture
 */
export function findProgram(name: string, searchPath = process.env["PATH"] ?? ""): Program {
  const path = name.includes("/") ? name : Bun.which(name, { PATH: searchPath });
  if (path === null)
    throw notFound(
      `there is no program ${formatValue(name)} in the folders of PATH; install it, or give its path`,
    );
  let elf: ElfFile | undefined;
  try {
    if (!statSync(path).isFile()) throw new TypeError("it is not a file");
    accessSync(path, constants.X_OK);
    elf = readElf(path);
  } catch (cause) {
    throw notFound(`the program ${formatValue(path)} cannot be started: ${messageOf(cause)}`, cause);
  }
  if (elf !== undefined && elf.arch !== process.arch)
    throw notFound(
      `the program ${formatValue(path)} is for ${elf.arch}, but this machine is ${process.arch}; install the program for ${process.arch}`,
    );
  return { path, warning: elf && warningOf(elf) };
}

/** @throws CamemError `LIBRARY_NOT_FOUND`, or `LIBRARY_INVALID` for a library of another architecture */
export function checkLibrary(path: string): void {
  let elf: ElfFile | undefined;
  try {
    elf = readElf(path);
  } catch (cause) {
    throw new CamemError(
      "LIBRARY_NOT_FOUND",
      `the library ${formatValue(path)} cannot be read: ${messageOf(cause)}; install the package camem again`,
      { cause },
    );
  }
  if (elf?.arch === process.arch) return;
  const kind = elf === undefined ? "no library" : `for ${elf.arch}`;
  throw new CamemError(
    "LIBRARY_INVALID",
    `the library ${formatValue(path)} is ${kind}; it must be for ${process.arch}`,
  );
}

function warningOf({ loader }: ElfFile): string | undefined {
  if (loader === undefined)
    return "it is statically linked, so no library can be preloaded into it; only dynamically linked programs that it starts can sleep";
  if (loader.includes("musl")) return "it is linked with musl, but the library to preload needs glibc";
  return undefined;
}

function notFound(message: string, cause?: unknown): CamemError {
  return new CamemError("INVALID_CONFIG", message, { property: "program", cause });
}
