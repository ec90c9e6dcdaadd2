/**
 * Measures what the preload library costs a program: allocations, a gated call while awake, and device memory beyond
 * what was asked for. Runs on the emulator, in turn with and without the library, and prints a table.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zigPath } from "../../scripts/native.ts";

const rounds = 9;
const native = join(import.meta.dir, "../../native", `linux-${process.arch}`);

function compile(folder: string): string {
  const program = join(folder, "measure");
  const target = `${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu.2.28`;
  const options = ["-target", target, "-std=gnu11", "-O2", "-fno-sanitize=undefined"];
  const libraries = [`-L${join(native, "emulator")}`, "-Wl,--no-as-needed", "-lascendcl"];
  const source = join(import.meta.dir, "measure.c");
  const result = Bun.spawnSync([zigPath(), "cc", ...options, source, ...libraries, "-o", program]);
  if (result.exitCode !== 0) throw new Error(`measure.c does not compile:\n${result.stderr}`);
  return program;
}

/** Figures by name, of one run. */
function measure(program: string, environment: Readonly<Record<string, string>>): Map<string, number> {
  const env = { LD_LIBRARY_PATH: join(native, "emulator"), ...environment };
  const result = Bun.spawnSync([program], { env, stdout: "pipe", stderr: "pipe" });
  if (result.exitCode !== 0) throw new Error(`measure ended with ${result.exitCode}:\n${result.stderr}`);
  const lines = result.stdout.toString().trim().split("\n");
  return new Map(
    lines.map((line) => {
      const [name, size, value] = line.split(" ");
      return [`${name} ${size}`, Number(value)];
    }),
  );
}

function median(runs: readonly Map<string, number>[], name: string): number {
  const values = runs.map((run) => run.get(name) ?? Number.NaN).sort((a, b) => a - b);
  return values[Math.floor(values.length / 2)] ?? Number.NaN;
}

function printTable(bare: readonly Map<string, number>[], preloaded: readonly Map<string, number>[]): void {
  const row = (...cells: (string | number)[]) => console.log(`| ${cells.join(" | ")} |`);
  row("figure", "bare", "with the library", "ratio or difference", "target");
  row("---", "---:", "---:", "---:", "---");
  const sizes = [...(bare[0]?.keys() ?? [])].flatMap((name) => /^malloc (\d+)$/.exec(name)?.[1] ?? []);
  for (const size of sizes) {
    const pair = (runs: typeof bare) => median(runs, `malloc ${size}`) + median(runs, `free ${size}`);
    const [without, under] = [pair(bare), pair(preloaded)];
    row(
      `aclrtMalloc and aclrtFree of ${size} bytes`,
      `${without} ns`,
      `${under} ns`,
      `${(under / without).toFixed(2)} ×`,
      "≤ 1.5 ×",
    );
  }
  const [call, gated] = [bare, preloaded].map((runs) => median(runs, "call_ps 0") / 1000) as [number, number];
  row(
    "a gated call while awake",
    `${call.toFixed(1)} ns`,
    `${gated.toFixed(1)} ns`,
    `+${(gated - call).toFixed(1)} ns`,
    "≤ 50 ns",
  );
  const [own, waste] = [bare, preloaded].map((runs) => median(runs, "waste_ppm 0") / 1e4) as [number, number];
  row("memory beyond llama.cpp's sizes", `${own.toFixed(2)} %`, `${waste.toFixed(2)} %`, "", "< 1 %");
}

const folder = mkdtempSync(join(tmpdir(), "camem-bench-preload-"));
try {
  const program = compile(folder);
  const bare: Map<string, number>[] = [];
  const preloaded: Map<string, number>[] = [];
  for (let round = 0; round < rounds; round++) {
    bare.push(measure(program, {}));
    preloaded.push(measure(program, { LD_PRELOAD: join(native, "libcamem_preload.so") }));
  }
  printTable(bare, preloaded);
} finally {
  rmSync(folder, { recursive: true });
}
