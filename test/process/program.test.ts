import { afterAll, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EngineProcess } from "../../src/process/engine-process.ts";
import { preloadEnvironment } from "../../src/process/preload.ts";
import { checkLibrary, findProgram } from "../../src/process/program.ts";
import { failureOf } from "../support/device.ts";

const folder = mkdtempSync(join(tmpdir(), "camem-program-"));
afterAll(() => rmSync(folder, { recursive: true }));

const emulator = join(import.meta.dir, `../../native/linux-${process.arch}/emulator/libascendcl.so`);

/** An ELF file for a machine, with a loader or without. */
function elf(name: string, machine: number, loader?: string): string {
  const file = Buffer.alloc(64 + 56 + 64);
  file.write("\x7fELF\x02\x01\x01", "latin1");
  file.writeUInt16LE(machine, 18);
  file.writeBigUInt64LE(64n, 32);
  if (loader !== undefined) {
    file.writeUInt16LE(1, 56);
    file.writeUInt32LE(3, 64);
    file.writeBigUInt64LE(120n, 72);
    file.writeBigUInt64LE(BigInt(loader.length + 1), 96);
    file.write(loader, 120);
  }
  const path = join(folder, name);
  writeFileSync(path, file);
  chmodSync(path, 0o755);
  return path;
}

const own = process.arch === "x64" ? 62 : 183;
const other = process.arch === "x64" ? 183 : 62;

test("findProgram finds a program in PATH", () => {
  expect(findProgram("sh").path).toEndWith("/sh");
  expect(findProgram("sh").warning).toBeUndefined();
});

test("findProgram refuses a program when it does not exist, cannot be executed or is for another architecture", async () => {
  writeFileSync(join(folder, "text"), "text");
  const messages = await Promise.all(
    [
      "camem-no-such-program",
      join(folder, "text"),
      folder,
      join(folder, "nothing"),
      elf("foreign", other),
    ].map(async (name) => (await failureOf(() => findProgram(name))).message),
  );
  expect(messages[0]).toContain("in the folders of PATH");
  expect(messages[1]).toContain("permission denied");
  expect(messages[2]).toContain("it is not a file");
  expect(messages[3]).toContain("no such file");
  expect(messages[4]).toContain(`this machine is ${process.arch}`);
});

test("findProgram warns when a library cannot be preloaded", () => {
  expect(findProgram(elf("static", own)).warning).toContain("statically linked");
  expect(findProgram(elf("musl", own, "/lib/ld-musl-x86_64.so.1")).warning).toContain("musl");
  expect(findProgram(elf("dynamic", own, "/lib64/ld-linux-x86-64.so.2")).warning).toBeUndefined();
});

test("checkLibrary refuses a library when it is missing, no library or for another architecture", async () => {
  writeFileSync(join(folder, "no-elf.so"), "text");
  const codes = await Promise.all(
    [join(folder, "missing.so"), join(folder, "no-elf.so"), elf("foreign.so", other)].map(
      async (path) => (await failureOf(() => checkLibrary(path))).code,
    ),
  );
  expect(codes).toEqual(["LIBRARY_NOT_FOUND", "LIBRARY_INVALID", "LIBRARY_INVALID"]);
  checkLibrary(emulator);
});

test("preloadEnvironment keeps other libraries behind its own", () => {
  const options = { name: "engine", onTouch: "wake", rules: [], library: emulator } as const;
  const environment = { LD_PRELOAD: `/lib/one.so ${emulator}:/lib/two.so` };
  expect(preloadEnvironment(options, environment)).toEqual({
    LD_PRELOAD: `${emulator}:/lib/one.so:/lib/two.so`,
    CAMEM_ENGINE_NAME: "engine",
    CAMEM_ON_TOUCH: "wake",
  });
});

test("EngineProcess names the folder when it does not exist", async () => {
  const error = await failureOf(
    () => new EngineProcess({ program: "/bin/true", args: [], environment: {}, cwd: "/nowhere" }),
  );
  expect(error).toMatchObject({
    code: "INVALID_CONFIG",
    property: "directory",
    message: 'there is no folder "/nowhere" to start the program in',
  });
});
