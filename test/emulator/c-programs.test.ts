/**
 * C programs against the emulator's C ABI, with declarations of their own (`support/acl.h`): the vendor's memory samples
 * 0 to 9 in their order of calls, and the conformance program. They use the emulator even where there is an NPU, because
 * their kernels run on the host and read device memory.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type Outcome, outcomeOf } from "../support/program.ts";

const COMPILERS_AT_ONCE = 2;
const COMPILE_LIMIT_MS = 300_000;
const RUN_LIMIT_MS = 30_000;
const CONFORMANCE_LIMIT_MS = 120_000;

const packageRoot = resolve(import.meta.dir, "../..");
const emulatorFolder = join(packageRoot, "native", `linux-${process.arch}`, "emulator");

/** One process each, in the vendor's order. */
const samples = [
  "0_host_to_host",
  "1_host_to_device_sync",
  "2_host_to_device_async",
  "3_device_to_host_sync",
  "4_device_to_host_async",
  "5_device_to_device_sync",
  "6_device_to_device_async",
  "9_multistream",
] as const;

/** An exporter and an importer each. */
const pairs = ["7_share_with_pid", "8_share_without_pid"] as const;

const conformanceSources = readdirSync(join(import.meta.dir, "conformance"))
  .filter((name) => name.endsWith(".c"))
  .map((name) => `conformance/${name}`);

interface Program {
  readonly name: string;
  readonly sources: readonly string[];
}

const programs: readonly Program[] = [
  { name: "conformance", sources: conformanceSources },
  ...[...samples, ...pairs.flatMap((pair) => [`${pair}_proc_a`, `${pair}_proc_b`])].map((name) => ({
    name,
    sources: [`samples/${name}.c`],
  })),
];

/** The compiler's own binary: the package's `zig` command is a Node script around it. */
function zigBinary(): string {
  const manifest = fileURLToPath(import.meta.resolve(`@zigc/linux-${process.arch}/package.json`));
  return join(dirname(manifest), "bin", "zig");
}

/** Zig's name of this machine, with the glibc that the emulator is built for, so that Zig's cache is shared with its build. */
function zigTarget(): string {
  return `${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu.2.28`;
}

async function compile(program: Program, folder: string): Promise<void> {
  const command = [
    zigBinary(),
    "cc",
    "-target",
    zigTarget(),
    "-std=gnu11",
    "-O0",
    "-g0",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-sanitize=undefined",
    ...program.sources.map((source) => join(import.meta.dir, source)),
    `-L${emulatorFolder}`,
    "-Wl,--no-as-needed",
    "-lascendcl",
    "-lpthread",
    "-ldl",
    "-o",
    join(folder, program.name),
  ];
  const { stderr, exitCode } = await outcomeOf(command, { cwd: folder, limitMs: COMPILE_LIMIT_MS });
  if (exitCode !== 0) throw new Error(`${program.name} does not compile:\n${stderr}`);
}

async function compileAll(folder: string): Promise<void> {
  const waiting = [...programs];
  const work = async () => {
    for (let program = waiting.shift(); program !== undefined; program = waiting.shift()) {
      await compile(program, folder);
    }
  };
  await Promise.all(Array.from({ length: COMPILERS_AT_ONCE }, work));
}

describe("C programs on the emulator, with or without an NPU", () => {
  let folder = "";

  beforeAll(async () => {
    const library = join(emulatorFolder, "libascendcl.so");
    if (!existsSync(library)) throw new Error(`${library} is missing: run "npm run build"`);
    folder = await mkdtemp(join(tmpdir(), "camem-samples-"));
    await compileAll(folder);
  }, COMPILE_LIMIT_MS);

  afterAll(async () => {
    if (folder !== "") await rm(folder, { recursive: true, force: true });
  });

  const freshFolder = async (name: string): Promise<string> => {
    const path = join(folder, `${name}.run`);
    await mkdir(path);
    return path;
  };

  /** A clean environment: settings of the emulator or of a real device would change the outcome. */
  const run = (name: string, cwd: string, limitMs = RUN_LIMIT_MS): Promise<Outcome> =>
    outcomeOf([join(folder, name)], {
      cwd,
      env: { LD_LIBRARY_PATH: emulatorFolder, CAMEM_EMULATOR_DEVICES: "2" },
      limitMs,
    });

  test.each(samples)(
    "emulator runs memory sample %s",
    async (name) => {
      expect(await run(name, await freshFolder(name))).toEqual({
        stdout: "Source data: 123\nDestination data: 123\n",
        stderr: "",
        exitCode: 0,
      });
    },
    RUN_LIMIT_MS,
  );

  test.each(pairs)(
    "emulator runs memory sample %s in two processes",
    async (name) => {
      const cwd = await freshFolder(name);
      const [exporter, importer] = await Promise.all([
        run(`${name}_proc_a`, cwd),
        run(`${name}_proc_b`, cwd),
      ]);
      expect(exporter).toEqual({ stdout: "Source data: 123\n", stderr: "", exitCode: 0 });
      expect(importer).toEqual({ stdout: "Destination data: 123\n", stderr: "", exitCode: 0 });
    },
    RUN_LIMIT_MS,
  );

  test(
    "emulator has the return codes and effects of AscendCL",
    async () => {
      const outcome = await run("conformance", await freshFolder("conformance"), CONFORMANCE_LIMIT_MS);
      const lines = outcome.stdout.trimEnd().split("\n");
      expect(lines.filter((line) => line.startsWith("FAIL "))).toEqual([]);
      expect(lines.at(-1)).toMatch(/^[1-9]\d* passed, 0 failed$/);
      expect(outcome.exitCode).toBe(0);
    },
    CONFORMANCE_LIMIT_MS,
  );
});
