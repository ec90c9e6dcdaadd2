/** The command `camem run`: its arguments, its errors, and its exit codes. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { outcomeOf } from "../support/program.ts";

const camem = (...args: string[]) => camemWith({}, ...args);

async function camemWith(
  environment: Readonly<Record<string, string>>,
  ...args: string[]
): Promise<{ exitCode: number; output: string; errors: string }> {
  const command = [process.execPath, join(import.meta.dir, "../../src/cli/main.ts"), ...args];
  const env = { ...process.env, ...environment };
  const { exitCode, stdout: output, stderr: errors } = await outcomeOf(command, { env });
  return { exitCode, output, errors };
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
  [["--listen", "x", "--", "true"], "--listen is"],
  [["--listen", ":0", "--upstream", "localhost:1", "--", "true"], "--upstream is"],
  [["--listen", ":0", "--upstream", "http://127.0.0.1:1", "--idle", "5m", "--", "true"], "--idle is"],
  [["--hold-deadline", "soon", "--", "true"], "--hold-deadline is"],
  [["--rule", "size>=1: lose", "--", "true"], 'the rule "size>=1: lose" does not parse'],
  [["--rule", "written=hsot: discard", "--", "true"], "written=none, or host, device and memset joined by +"],
  [["--rule", "size>=256MB: discard", "--", "true"], "a size in B, KiB, MiB, GiB or TiB"],
  [["--rule", "sise>=1: discard", "--", "true"], "did you mean size?"],
  [["--on-touch", "sleep", "--", "true"], '--on-touch is "sleep"; it must be wake, hold or fail'],
  [["--name", "a b", "--", "true"], "--name is"],
])("camem run %p says what is wrong", async (args, message) => {
  const { exitCode, errors, output } = await camem("run", ...args);
  expect({ exitCode, output }).toEqual({ exitCode: 2, output: "" });
  expect(errors).toContain(message);
  expect(errors).toContain('"camem run --help" explains the options');
});

test.each([
  ["5x:1", 'the time "5x" must be a number with ms, s, m, min, h or d'],
  ["5:1", 'the time "5" must be'],
  ["0:1", 'the time "0" must be'],
  ["2:1", 'the time "2" must be'],
  ["1m:1,1s:2", "each level must be later and deeper"],
  ["1s:1,1m:1", "each level must be later and deeper"],
])("camem run --idle %p says what is wrong before the program starts", async (ladder, message) => {
  const proxy = ["--listen", ":0", "--upstream", "http://127.0.0.1:1"];
  const { exitCode, errors, output } = await camem(
    "run",
    ...proxy,
    "--idle",
    ladder,
    "--",
    "echo",
    "started",
  );
  expect({ exitCode, output }).toEqual({ exitCode: 2, output: "" });
  expect(errors).toContain(`--idle is "${ladder}"; ${message}`);
});

test.each(["camem-no-such-program", "/etc/passwd"])(
  "camem run ends with 127 when %p cannot be started",
  async (program) => {
    const { exitCode, errors } = await camem("run", "--", program);
    expect(exitCode).toBe(127);
    expect(errors).toContain(program);
    expect(errors.trim().split("\n")).toHaveLength(1);
  },
);

test("camem run refuses a variable that no sleep could read, before the program starts", async () => {
  const { exitCode, errors, output } = await camemWith(
    { CAMEM_HOST_BUDGET: "1GB" },
    "run",
    "--",
    "echo",
    "started",
  );
  expect({ exitCode, output }).toEqual({ exitCode: 2, output: "" });
  expect(errors).toContain('(CAMEM_HOST_BUDGET) is "1GB"');
});

test("camem run warns of a misspelt variable", async () => {
  const { exitCode, errors } = await camemWith({ CAMEM_HOST_BUGET: "1GiB" }, "run", "--", "true");
  expect(exitCode).toBe(0);
  expect(errors).toContain("camem: warning: CAMEM_HOST_BUGET is set, but camem has no such variable");
});
