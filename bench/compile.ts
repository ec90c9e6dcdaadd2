/** Compiles the C of the benchmark with the compiler that comes with Zig. */

import { dirname } from "node:path";
import { zigPath } from "../scripts/native.ts";
import { emulatorLibraryPath } from "../src/ffi/library-files.ts";

const target = `${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu.2.28`;
const options = ["-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=undefined"];

/** Any AscendCL serves to link a program: which one it uses is decided when it starts. */
export const linkingAscendCL = [`-L${dirname(emulatorLibraryPath)}`, "-Wl,--no-as-needed", "-lascendcl"];

/** Writes a program, or with `-shared` a library, to `output`. */
export async function compile(
  output: string,
  files: readonly string[],
  flags: readonly string[],
): Promise<void> {
  const command = [zigPath(), "cc", "-target", target, ...options, ...files, ...flags, "-o", output];
  const child = Bun.spawn(command, { stdout: "ignore", stderr: "pipe" });
  const [exitCode, errors] = await Promise.all([child.exited, new Response(child.stderr).text()]);
  if (exitCode !== 0) throw new Error(`${files.join(" and ")} cannot be compiled:\n${errors}`);
}
