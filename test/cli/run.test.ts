/** The command `camem run`: its arguments, its errors, and its exit codes. */

import { expect, test } from "bun:test";
import { join } from "node:path";

async function camem(...args: string[]): Promise<{ exitCode: number; output: string; errors: string }> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "../../src/cli/main.ts"), ...args], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { exitCode: await child.exited, output, errors };
}

test.each([
  [["run"], 'say which program, after "--"'],
  [["run", "--"], 'say which program, after "--"'],
  [["run", "llama-server"], 'write "--" before the program: camem run [options] -- llama-server'],
  [["doctor", "--", "x"], 'takes no program after "--"'],
  [["run", "--lissten", ":1", "--", "true"], "--lissten"],
])("camem %p prints the usage", async (args, message) => {
  const { exitCode, errors } = await camem(...args);
  expect(exitCode).toBe(2);
  expect(errors).toContain(message);
  expect(errors).toContain("usage: camem");
});

test.each([
  [["--", "camem-no-such-program"], "in the folders of PATH"],
  [["--listen", "x", "--", "true"], "--listen is"],
  [["--listen", ":0", "--upstream", "localhost:1", "--", "true"], "--upstream is"],
  [["--listen", ":0", "--upstream", "http://127.0.0.1:1", "--idle", "5m", "--", "true"], "--idle is"],
  [["--hold-deadline", "soon", "--", "true"], "--hold-deadline is"],
  [["--rule", "size>=1: lose", "--", "true"], 'the rule "size>=1: lose" does not parse'],
  [["--on-touch", "sleep", "--", "true"], "onTouch is"],
  [["--name", "a b", "--", "true"], "name is"],
])("camem run %p says what is wrong", async (args, message) => {
  const { exitCode, errors, output } = await camem("run", ...args);
  expect({ exitCode, output }).toEqual({ exitCode: 1, output: "" });
  expect(errors).toContain(message);
  expect(errors.trim().split("\n")).toHaveLength(1);
});
