import { expect, test } from "bun:test";
import { join } from "node:path";

const examples = join(import.meta.dir, "../../examples");

test.each([
  ["serve/main.ts", "bun run serve"],
  ["tiny-llama/demo.ts", "bun run demo"],
])("%s --help states the purpose, options with defaults, and examples", (path, command) => {
  const { stdout, exitCode } = Bun.spawnSync([process.execPath, join(examples, path), "--help"]);
  const output = `${stdout}`;
  expect(exitCode).toBe(0);
  expect(output).toMatch(/^Usage: .*\n\n[A-Z].*\.\n/);
  expect(output).toMatch(/^ {2}--\S+ .*\(default: /m);
  expect(output).toMatch(new RegExp(`\nExamples:\n(  .*${command}.*\n)+$`));
});
