import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { zigBuild } from "../../scripts/native.ts";
import { emulatorLibraryPath } from "../../src/ffi/index.ts";

const buildTimeoutMs = 300_000;

test(
  "Zig tests pass, including the check that generated bindings are current",
  async () => {
    expect(await zigBuild("test")).toBeUndefined();
  },
  buildTimeoutMs,
);

test(
  "stress test of native threads passes with Zig's safety checks",
  async () => {
    expect(await zigBuild("stress", "--", "10")).toBeUndefined();
  },
  buildTimeoutMs,
);

test(
  "stress test of native threads passes under the thread sanitizer",
  async () => {
    try {
      await zigBuild("stress", "-Dsanitize-thread", "--", "40");
    } catch (error) {
      // The sanitizer reports an unsupported memory layout before it starts.
      if (!String(error).includes("FATAL: ThreadSanitizer: unexpected memory mapping")) throw error;
      console.log("the thread sanitizer does not run on this kernel: skipped");
    }
  },
  buildTimeoutMs,
);

test(
  "-Dlink-ascendcl makes the dynamic linker find AscendCL, or fail early",
  async () => {
    const prefix = mkdtempSync(join(tmpdir(), "camem-linked-"));
    const folder = dirname(emulatorLibraryPath);
    await zigBuild("-Dlink-ascendcl", `-Dascendcl-path=${folder}`, "--prefix", prefix);
    const library = join(prefix, `${process.platform}-${process.arch}`, "libcamem.so");
    const code = `
      import { dlopen } from "bun:ffi";
      const { camem_attach } = dlopen(${JSON.stringify(library)}, { camem_attach: { args: ["ptr", "ptr"], returns: "i32" } }).symbols;
      console.log("status", camem_attach(null, new Uint8Array(4096)));`;
    const attach = (environment: Record<string, string>) => {
      const result = Bun.spawnSync([process.execPath, "-e", code], {
        env: { ...process.env, ...environment },
      });
      return `${result.stdout}${result.stderr}`;
    };
    expect(attach({ LD_LIBRARY_PATH: folder })).toBe("status 0\n");
    expect(attach({ LD_LIBRARY_PATH: "" })).toContain("libascendcl.so");
    rmSync(prefix, { recursive: true });
  },
  buildTimeoutMs,
);
