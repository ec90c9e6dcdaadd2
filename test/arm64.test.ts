/** The arm64 build runs: under qemu, with Bun's own build for arm64. Where either is missing the tests are skipped, and say so. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zigBuild } from "../scripts/native.ts";
import { outcomeOf } from "./support/program.ts";

const root = join(import.meta.dirname, "..");
const folder = mkdtempSync(join(tmpdir(), "camem-arm64-"));
const checkout = join(folder, "checkout");
/** Where Debian's libc6-arm64-cross puts glibc. */
const glibc = "/usr/aarch64-linux-gnu";
const qemu = Bun.which("qemu-aarch64-static") ?? Bun.which("qemu-aarch64");

/** Bun for arm64, from npm; undefined where it cannot be had. */
function downloadBun(): string | undefined {
  const name = `@oven/bun-linux-aarch64@${Bun.version}`;
  const npm = Bun.which("npm");
  if (npm === null) return undefined;
  const { success, stdout } = Bun.spawnSync([npm, "pack", name, "--pack-destination", folder], {
    cwd: folder,
  });
  const tarball = join(folder, stdout.toString().trim().split("\n").at(-1) ?? "");
  if (!success || !Bun.spawnSync(["tar", "xzf", tarball, "-C", folder]).success) return undefined;
  return join(folder, "package/bin/bun");
}

const reason =
  process.arch === "arm64"
    ? "this machine is one: all tests run there"
    : qemu === null
      ? "qemu-aarch64-static is not installed (Debian: qemu-user-static)"
      : existsSync(glibc)
        ? undefined
        : "there is no glibc for arm64 (Debian: libc6-arm64-cross)";
let bun: string | undefined;
if (reason !== undefined) console.log(`the arm64 build is not run: ${reason}`);

/** Runs Bun for arm64 in `cwd`. */
async function emulated(cwd: string, ...args: string[]): Promise<{ output: string; exitCode: number }> {
  if (qemu === null || bun === undefined) throw new Error("there is no Bun for arm64");
  const env = { ...process.env, CAMEM_BACKEND: "emulator" };
  const { stdout, stderr, exitCode } = await outcomeOf([qemu, "-L", glibc, bun, ...args], { cwd, env });
  return { output: stdout + stderr, exitCode };
}

const minutesMs = 600_000;

beforeAll(async () => {
  if (reason !== undefined) return;
  bun = downloadBun();
  if (bun === undefined) return console.log("the arm64 build is not run: Bun for arm64 cannot be downloaded");
  await zigBuild("release");
  mkdirSync(checkout);
  // Without the Zig sources, which only this machine's compiler can build.
  for (const name of [
    "src",
    "test",
    "scripts",
    "examples",
    "bench",
    "package.json",
    "bunfig.toml",
    "tsconfig.json",
  ])
    cpSync(join(root, name), join(checkout, name), { recursive: true });
  cpSync(join(root, "native/linux-arm64"), join(checkout, "native/linux-arm64"), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(checkout, "node_modules"));
}, minutesMs);

afterAll(() => rmSync(folder, { recursive: true }));

/** Tests that start no other program. */
const suites = [
  "test/allocator.test.ts",
  "test/states.test.ts",
  "test/memory/busy-device.test.ts",
  "test/checkpoint/safetensors.test.ts",
  "test/checkpoint/shards.test.ts",
  "test/checkpoint/file-backing.test.ts",
];

test.skipIf(reason !== undefined)(
  "the contract suite passes on arm64",
  async () => {
    if (bun === undefined) return;
    const { output, exitCode } = await emulated(checkout, "test", "--timeout", "120000", ...suites);
    expect(exitCode, output).toBe(0);
    expect(Number(/^ *(\d+) pass$/m.exec(output)?.[1])).toBeGreaterThan(200);
    expect(output).toContain("camem is tested on: emulator");
  },
  minutesMs,
);

test.skipIf(reason !== undefined)(
  "the code of the README runs on arm64 from its packages",
  async () => {
    if (bun === undefined) return;
    const project = join(folder, "project");
    const modules = join(project, "node_modules");
    mkdirSync(join(modules, "camem"), { recursive: true });
    // As `bun run pack` lays them out.
    const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    for (const name of ["src", "package.json"])
      cpSync(join(root, name), join(modules, "camem", name), { recursive: true });
    cpSync(join(root, "native/linux-arm64"), join(modules, "camem-linux-arm64"), { recursive: true });
    await Bun.write(join(modules, "camem-linux-arm64/package.json"), '{ "name": "camem-linux-arm64" }');
    for (const name of Object.keys(manifest.dependencies))
      symlinkSync(join(root, "node_modules", name), join(modules, name));
    const code = /```ts\n(.*?)```/s.exec(readFileSync(join(root, "README.md"), "utf8"))?.[1] ?? "";
    const program = code.replace("getInstance()", 'getInstance({ backend: "emulator" })');
    await Bun.write(join(project, "readme.ts"), program);
    const model = join(root, "examples/tiny-llama/model/model.safetensors");
    cpSync(model, join(project, "model.safetensors"));
    const { output, exitCode } = await emulated(project, "readme.ts");
    expect(exitCode, output).toBe(0);
    expect(output).toMatch(/^freed \d+ bytes in [\d.]+ ms/);
  },
  minutesMs,
);
