/** The engine of `program/`, linked with AscendCL, for tests that start it as users start theirs. */

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { compile } from "./engine.ts";

const emulatorFolder = resolve(import.meta.dir, `../../native/linux-${process.arch}/emulator`);

/** Compiles it into a new temporary folder, which the caller removes. Returns its path. */
export function buildLinkedEngine(): string {
  const program = join(mkdtempSync(join(tmpdir(), "camem-engine-")), "engine");
  const sources = ["main.c", "http.c", "model.c", "kernel.c", "scratch.c"];
  const ascendcl = [`-L${emulatorFolder}`, "-Wl,--no-as-needed", "-lascendcl"];
  compile(program, sources, ["-DENGINE_LINKED", ...ascendcl]);
  return program;
}

/** The variables with which it finds the emulator. */
export const engineEnvironment = { LD_LIBRARY_PATH: emulatorFolder, CAMEM_EMULATOR_DEVICES: "2" };
