import { expect, test } from "bun:test";
import { join } from "node:path";
import { emulatorLibraryPath } from "../../src/ffi/index.ts";

const cli = join(import.meta.dir, "../../src/cli/main.ts");

function camem(args: readonly string[], environment: Record<string, string> = {}) {
  const env = { ...process.env, CAMEM_BACKEND: "", CAMEM_ACL_LIBRARY: "", ...environment };
  const result = Bun.spawnSync([process.execPath, cli, ...args], { env });
  return { exitCode: result.exitCode, output: result.stdout.toString(), errors: result.stderr.toString() };
}

test("the emulator is described and found ready", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_BACKEND: "emulator", CAMEM_EMULATOR_DEVICES: "2" });
  expect(exitCode).toBe(0);
  for (const part of [
    "emulator, from CAMEM_BACKEND",
    `tried          ${emulatorLibraryPath}: opened`,
    "device 1       64 GiB free of 64 GiB, granularity 2 MiB",
    "aclFinalizeReference: present",
    "SoC            Ascend",
    "CANN           ",
    "result         ready",
  ])
    expect(output).toContain(part);
});

test("a library that is not AscendCL is named with what it lacks", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_ACL_LIBRARY: "libm.so.6" });
  expect(exitCode).toBe(1);
  expect(output).toContain("LIBRARY_INVALID");
  expect(output).toContain("it has no aclInit");
});

test("a missing library is named with the mend", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_ACL_LIBRARY: "/no/libascendcl.so" });
  expect(exitCode).toBe(1);
  expect(output).toContain("LIBRARY_NOT_FOUND");
  expect(output).toContain("/no/libascendcl.so");
  expect(output).toContain("CAMEM_ACL_LIBRARY");
});

test("no device at all is a result, not a crash", () => {
  const { exitCode, output } = camem(["doctor"], {
    CAMEM_BACKEND: "emulator",
    CAMEM_EMULATOR_FAULTS: "aclrtGetDeviceCount:1=207004",
  });
  expect(exitCode).toBe(1);
  expect(output).toContain("BACKEND_UNAVAILABLE");
  expect(output).toContain("aclrtGetDeviceCount returned 207004");
});

test("a wrong configuration is named by its variable", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_BACKEND: "cuda" });
  expect(exitCode).toBe(1);
  expect(output).toContain('CAMEM_BACKEND is "cuda"');
});

test("a mistyped command is refused with the usage", () => {
  const { exitCode, errors } = camem(["docter"]);
  expect(exitCode).toBe(2);
  expect(errors).toContain('there is no command "docter"');
  expect(errors).toContain("usage: camem doctor");
});

test("an option that does not exist is named, and no command at all asks for one", () => {
  expect(camem(["doctor", "--foo"]).errors).toStartWith("camem: Unknown option '--foo'\nusage:");
  expect(camem([]).errors).toStartWith("camem: say which command\nusage:");
  expect(camem([]).exitCode).toBe(2);
});

test("a device that is not there is not ready", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_BACKEND: "emulator", CAMEM_DEVICE: "4" });
  expect(exitCode).toBe(1);
  expect(output).toContain("UNKNOWN_DEVICE: the device (CAMEM_DEVICE) is 4; there is only device 0");
});

test("an emulator's variable that cannot be understood is named, with its value, and nothing else is blamed", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_BACKEND: "emulator", CAMEM_EMULATOR_HBM: "64GB" });
  expect(exitCode).toBe(1);
  expect(output).toContain('aclInit returned 500000: CAMEM_EMULATOR_HBM is "64GB", but must be a size');
  expect(output).not.toContain("CAMEM_ACL_LIBRARY, or leave it out");
});

test("the emulator's variables are shown, and misspelt ones are named without their value", () => {
  const { output } = camem(["doctor"], {
    CAMEM_BACKEND: "emulator",
    CAMEM_EMULATOR_HBM: "1GiB",
    CAMEM_RETIAN: "secret",
    CAMEM_TOKEN: "secret",
  });
  expect(output).toContain("environment    CAMEM_EMULATOR_HBM=1GiB");
  expect(output).toContain("CAMEM_RETIAN is set, but camem has no such variable");
  expect(output).not.toContain("CAMEM_TOKEN");
  expect(output).not.toContain("secret");
});
