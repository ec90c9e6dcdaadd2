/**
 * The test command: format and lint, types, unused code, Zig tests, all tests on Bun, those of the library on Deno. Stops at the
 * first step that fails.
 */

import { availableParallelism } from "node:os";
import { join } from "node:path";
import { toolCommand, zigPath } from "./native.ts";

const root = join(import.meta.dir, "..");

/** Ends a test that hangs. Generous, because the first touch of memory can take seconds on a busy machine. */
const timeoutMs = 60_000;

/** Test files that run side by side, each in a process of its own with an emulated device of its own. */
const workers = Math.min(availableParallelism(), 4);

/** How long each test file took when `npm test -- --update-timings` last ran: the slowest start first. */
const timings = "test/timings.json";

const bunTest = [
  ...[process.execPath, "test", "--timeout", `${timeoutMs}`],
  // A worker keeps its native libraries and its preload from file to file.
  ...[`--parallel=${workers}`, "--no-isolate", `--timings=${timings}`],
];

const steps: readonly { name: string; command: readonly string[]; folder?: string }[] = [
  { name: "format and lint", command: [...toolCommand("biome"), "check", "--error-on-warnings", "."] },
  { name: "format of the Zig sources", command: [zigPath(), "fmt", "--check", "shim"] },
  { name: "types", command: [...toolCommand("tsc"), "--noEmit"] },
  { name: "types of the page", command: [...toolCommand("tsc"), "--project", "tsconfig.page.json"] },
  {
    name: "unused files, exports and dependencies",
    command: [...toolCommand("knip-bun"), "--treat-config-hints-as-errors"],
  },
  { name: "zig build test", command: [zigPath(), "build", "test", "--summary", "all"], folder: "shim" },
  {
    name: "bun test",
    command: [...bunTest, ...process.argv.slice(2)],
  },
  { name: "deno test", command: [process.execPath, "test/deno/main.ts"] },
];

for (const { name, command, folder = "." } of steps) {
  console.log(`== ${name}`);
  const child = Bun.spawn([...command], { cwd: join(root, folder), stdio: ["ignore", "inherit", "inherit"] });
  const exitCode = await child.exited;
  if (exitCode === 0) continue;
  console.error(`${name} failed (exit code ${exitCode})`);
  process.exit(1);
}
