/** Environment variables of the emulator. */

import { expect, test } from "bun:test";
import { join } from "node:path";

function run(script: string, args: readonly string[], environment: Record<string, string>) {
  const env = { ...process.env, CAMEM_BACKEND: "emulator", CAMEM_ACL_LIBRARY: "", ...environment };
  const { exitCode, stdout, stderr } = Bun.spawnSync(
    [process.execPath, join(import.meta.dir, script), ...args],
    {
      env,
    },
  );
  return { exitCode, output: stdout.toString(), errors: stderr.toString() };
}

function doctor(environment: Record<string, string>) {
  return run("../../src/cli/main.ts", ["doctor"], environment);
}

test("emulator models the time of 60 GiB without that much memory", () => {
  const { output, errors } = run("timing-process.ts", [], {
    CAMEM_EMULATOR_TIMING: "d2h=600GiB/s,h2d=300GiB/s,content=off",
  });
  expect(errors).toBe("");
  const { sleepMs, wakeUpMs, residentBytes } = JSON.parse(output);
  expect(sleepMs).toBeGreaterThanOrEqual(100);
  expect(wakeUpMs).toBeGreaterThanOrEqual(200);
  expect(residentBytes).toBeLessThan(2 ** 30);
});

test("backend() mentions a timing model only when there is one", () => {
  expect(doctor({ CAMEM_EMULATOR_TIMING: "aclrtMapMem=1us" }).output).toContain("emulated (timing model)");
  expect(doctor({}).output).not.toContain("model");
});

test.each([
  ["CAMEM_EMULATOR_TIMING", "h2d=fast"],
  ["CAMEM_EMULATOR_TIMING", ""],
  ["CAMEM_EMULATOR_POOL", "-1"],
])("getInstance() names the emulator's variable when %s=%s", (name, value) => {
  const { exitCode, output, errors } = doctor({ [name]: value });
  expect(exitCode).toBe(1);
  expect(errors).toBe("");
  expect(output.split(`${name} is "${value}", but must be`)).toHaveLength(2);
  expect(output).toContain("BACKEND_UNAVAILABLE");
});
