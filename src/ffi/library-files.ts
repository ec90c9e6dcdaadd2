/**
 * The files of the native libraries: in a checkout or an installed package, beside a bundle of `bun build`, or inside a program of
 * `bun build --compile`.
 */

import { createHash, randomUUID } from "node:crypto";
import { existsSync, lstatSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { CamemError, messageOf } from "../errors.ts";
import { currentRuntime } from "./current-runtime.ts";

/** Not `import.meta.dirname`, which a bundle with bytecode refuses. */
const modulePath = fileURLToPath(import.meta.url);
const moduleFolder = dirname(modulePath);

/** In a bundle this module has the name of the bundle. */
const isUnbundled = /^library-files\.[jt]s$/.test(basename(modulePath));

/** Whether the C library of this process is musl. Its dynamic linker is mapped then. */
function usesMusl(): boolean {
  try {
    return readFileSync("/proc/self/maps", "latin1").includes("/ld-musl-");
  } catch {
    return false; // Deno may not read it, and has no build for musl
  }
}

const platform = `${process.platform}-${process.arch}${usesMusl() ? "-musl" : ""}`;

/** The folder that the package of a platform is in. */
function installedFolder(): string | undefined {
  try {
    return dirname(createRequire(import.meta.url).resolve(`camem-${platform}/package.json`));
  } catch {
    return undefined;
  }
}

/** This platform's libraries: in a checkout, where `zig build` puts them, or in a package of their own. */
const checkoutFolder = join(moduleFolder, "../../native", platform);
const nativeFolder = exists(checkoutFolder) ? checkoutFolder : (installedFolder() ?? checkoutFolder);

/** False also where Deno may not look: the import of a module must not throw. Opening the library reports what is missing. */
function exists(path: string): boolean {
  try {
    return existsSync(path);
  } catch {
    return false;
  }
}
export const emulatorLibraryPath = join(nativeFolder, "emulator/libascendcl.so");
export const shimPath = join(nativeFolder, "libcamem.so");

/** Where the package has each library. `preload` goes into an unmodified engine. */
const packagedPaths = {
  shim: shimPath,
  preload: join(nativeFolder, "libcamem_preload.so"),
  emulator: emulatorLibraryPath,
} as const;
export type LibraryName = keyof typeof packagedPaths;

/**
 * The path that `bun build` gave a library that it copied; undefined outside a bundle, where `require` refuses the file. The
 * bundler copies what a literal `require` names, and ignores a missing file only inside `try`: a checkout has one platform.
 */
function bundledPath(name: LibraryName): string | undefined {
  try {
    switch (`${name} for ${platform}`) {
      case "shim for linux-x64":
        return require("#native/linux-x64/libcamem.so");
      case "shim for linux-arm64":
        return require("#native/linux-arm64/libcamem.so");
      case "preload for linux-x64":
        return require("#native/linux-x64/libcamem_preload.so");
      case "preload for linux-arm64":
        return require("#native/linux-arm64/libcamem_preload.so");
      case "emulator for linux-x64":
        return require("#native/linux-x64/emulator/libascendcl.so");
      case "emulator for linux-arm64":
        return require("#native/linux-arm64/emulator/libascendcl.so");
      case "shim for linux-x64-musl":
        return require("#native/linux-x64-musl/libcamem.so");
      case "shim for linux-arm64-musl":
        return require("#native/linux-arm64-musl/libcamem.so");
      case "preload for linux-x64-musl":
        return require("#native/linux-x64-musl/libcamem_preload.so");
      case "preload for linux-arm64-musl":
        return require("#native/linux-arm64-musl/libcamem_preload.so");
      case "emulator for linux-x64-musl":
        return require("#native/linux-x64-musl/emulator/libascendcl.so");
      case "emulator for linux-arm64-musl":
        return require("#native/linux-arm64-musl/emulator/libascendcl.so");
      default:
        return undefined;
    }
  } catch {
    return undefined;
  }
}

/** A folder that nobody else can write to: another user must not replace a library. */
function privateFolder(): string {
  const folder = join(tmpdir(), `camem-${process.getuid?.()}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const stat = lstatSync(folder);
  if (stat.isDirectory() && stat.uid === process.getuid?.() && (stat.mode & 0o022) === 0) return folder;
  throw new TypeError(`${folder} is not a folder that only this user can write to`);
}

/**
 * Copies a library out of a compiled program, because the dynamic linker cannot open it there. The path depends on the content
 * alone, so that all Workers share one shim.
 *
 * @throws CamemError `LIBRARY_NOT_FOUND` when the folder for temporary files cannot be used
 */
function extract(embedded: string, fileName: string): string {
  try {
    const content = readFileSync(embedded);
    const folder = join(privateFolder(), createHash("sha256").update(content).digest("hex").slice(0, 16));
    const path = join(folder, fileName);
    if (existsSync(path)) return path;
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const draft = `${path}.${randomUUID()}`;
    writeFileSync(draft, content, { mode: 0o500 });
    renameSync(draft, path);
    return path;
  } catch (cause) {
    throw new CamemError(
      "LIBRARY_NOT_FOUND",
      `${fileName} cannot be copied out of this program to ${tmpdir()}: ${messageOf(cause)}; set TMPDIR to a writable folder`,
      { cause },
    );
  }
}

/** Where the bundler left a library. A bundle with bytecode does not know its own folder. */
function besideBundle(path: string): string[] {
  return [moduleFolder, dirname(currentRuntime().program())].map((folder) => resolve(folder, path));
}

/**
 * The path of a library that the dynamic linker can open.
 *
 * @throws CamemError `LIBRARY_NOT_FOUND` naming every path tried
 */
export function libraryPath(name: LibraryName): string {
  const packaged = packagedPaths[name];
  const isCompiled = currentRuntime().isCompiled();
  if (!isCompiled && isUnbundled && existsSync(packaged)) return packaged;
  const bundled = bundledPath(name);
  const fileName = basename(packaged);
  if (isCompiled && bundled !== undefined) return extract(bundled, fileName);
  const tried = [...(bundled === undefined ? [] : besideBundle(bundled)), packaged];
  const found = tried.find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new CamemError(
    "LIBRARY_NOT_FOUND",
    `there is no ${fileName} at ${[...new Set(tried)].join(" or ")}: the package camem-${platform} has it, if there is one; ` +
      `install without --omit=optional; in a checkout, run "bun run build"; deploy a bundle with the files beside it, or build it with --external camem`,
  );
}
