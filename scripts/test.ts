/**
 * The test command: format and lint, types, unused code, Zig tests, Bun tests. Stops at the first step that
 * fails.
 */

import { join } from "node:path";
import { toolCommand, zigPath } from "./native.ts";

const root = join(import.meta.dir, "..");

/** Ends a test that hangs. Generous, because the first touch of memory can take seconds on a busy machine. */
const timeoutMs = 60_000;

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
    command: [process.execPath, "test", "--timeout", `${timeoutMs}`, ...process.argv.slice(2)],
  },
];

for (const { name, command, folder = "." } of steps) {
  console.log(`== ${name}`);
  const child = Bun.spawn([...command], { cwd: join(root, folder), stdio: ["ignore", "inherit", "inherit"] });
  const exitCode = await child.exited;
  if (exitCode === 0) continue;
  console.error(`${name} failed (exit code ${exitCode})`);
  process.exit(1);
}
