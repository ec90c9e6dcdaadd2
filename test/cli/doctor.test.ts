import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import manifest from "../../package.json" with { type: "json" };
import { emulatorLibraryPath } from "../../src/ffi/index.ts";
import { unknownVariables } from "../../src/options/variables.ts";

const cli = join(import.meta.dir, "../../src/cli/main.ts");

function camem(args: readonly string[], environment: Record<string, string> = {}) {
  const env = { ...process.env, CAMEM_BACKEND: "", CAMEM_ACL_LIBRARY: "", ...environment };
  const result = Bun.spawnSync([process.execPath, cli, ...args], { env });
  return { exitCode: result.exitCode, output: result.stdout.toString(), errors: result.stderr.toString() };
}

test("camem doctor describes the emulator and finds it ready", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_BACKEND: "emulator", CAMEM_EMULATOR_DEVICES: "2" });
  expect(exitCode).toBe(0);
  for (const part of [
    "emulator, from CAMEM_BACKEND",
    `tried          ${emulatorLibraryPath}: opened`,
    "device 1       64 GiB free of 64 GiB, granularity 2 MiB",
    "aclFinalizeReference: present",
    "SoC            Ascend",
    process.env["ASCEND_HOME_PATH"] ? "CANN           " : "CANN           none: the emulator needs no CANN",
    "result         ready",
  ])
    expect(output).toContain(part);
});

test("camem doctor shows free host memory, the limit on locked memory and the host budget", () => {
  const line = (label: string, output: string) =>
    output.split("\n").find((each) => each.startsWith(label)) ?? "";
  const { output } = camem(["doctor"], { CAMEM_BACKEND: "emulator" });
  expect(line("host memory", output)).toMatch(/ [\d.]+ [GM]iB free of [\d.]+ [GM]iB$/);
  expect(line("locked memory", output)).toContain("(ulimit -l)");
  expect(line("host budget", output)).toMatch(
    / [\d.]+ [GM]iB, from the (free memory of this machine \(\/proc\/meminfo\)|memory limit of this container \(\/.+\))$/,
  );
  const limited = camem(["doctor"], { CAMEM_BACKEND: "emulator", CAMEM_HOST_BUDGET: "3GiB" });
  expect(line("host budget", limited.output)).toEndWith(" 3 GiB, from hostBudget (CAMEM_HOST_BUDGET)");
});

test("camem doctor names a library that is not AscendCL and its missing symbols", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_ACL_LIBRARY: "libm.so.6" });
  expect(exitCode).toBe(1);
  expect(output).toContain("LIBRARY_INVALID");
  expect(output).toContain("it has no aclInit");
});

test("camem doctor names a missing library and the remedy", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_ACL_LIBRARY: "/no/libascendcl.so" });
  expect(exitCode).toBe(1);
  expect(output).toContain("LIBRARY_NOT_FOUND");
  expect(output).toContain("/no/libascendcl.so");
  expect(output).toContain("CAMEM_ACL_LIBRARY");
});

test("camem doctor reports that there is no device", () => {
  const { exitCode, output } = camem(["doctor"], {
    CAMEM_BACKEND: "emulator",
    CAMEM_EMULATOR_FAULTS: "aclrtGetDeviceCount:1=207004",
  });
  expect(exitCode).toBe(1);
  expect(output).toContain("BACKEND_UNAVAILABLE");
  expect(output).toContain("aclrtGetDeviceCount returned 207004");
});

test("camem doctor names the variable of an invalid option", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_BACKEND: "cuda" });
  expect(exitCode).toBe(1);
  expect(output).toContain('CAMEM_BACKEND is "cuda"');
});

test("camem refuses an unknown command with the usage", () => {
  const { exitCode, errors } = camem(["docter"]);
  expect(exitCode).toBe(2);
  expect(errors).toContain('there is no command "docter"; did you mean "doctor"?');
  expect(errors).toContain("usage: camem <command> [options]");
});

test("camem names an unknown option, and asks for a command when there is none", () => {
  const { errors } = camem(["doctor", "--backed", "emulator"]);
  expect(errors).toStartWith(
    "camem: there is no option --backed; did you mean --backend?\nusage: camem doctor",
  );
  expect(camem(["doctor", "--foo"]).errors).toStartWith("camem: there is no option --foo\nusage:");
  expect(camem([]).errors).toStartWith("camem: say which command\nusage:");
  expect(camem([]).exitCode).toBe(2);
});

test("camem doctor finds a missing device not ready", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_BACKEND: "emulator", CAMEM_DEVICE: "4" });
  expect(exitCode).toBe(1);
  expect(output).toContain("UNKNOWN_DEVICE: the device (CAMEM_DEVICE) is 4; there is only device 0");
});

test("camem doctor names only the invalid emulator variable, with its value", () => {
  const { exitCode, output, errors } = camem(["doctor"], {
    CAMEM_BACKEND: "emulator",
    CAMEM_EMULATOR_HBM: "64GB",
  });
  expect(exitCode).toBe(1);
  expect(output).toContain('aclInit returned 500000: CAMEM_EMULATOR_HBM is "64GB", but must be a size');
  expect(output).toEndWith("(camem emulator): the library itself was found and opened\n");
  expect(errors).toBe("");
});

test("camem doctor shows every variable, invalid value and misspelt name when a value is invalid", () => {
  const { exitCode, output } = camem(["doctor"], {
    CAMEM_BACKEND: "cuda",
    CAMEM_HOST_BUDGET: "lots",
    CAMEM_RETIAN: "all",
  });
  expect(exitCode).toBe(1);
  expect(output).toContain("environment    CAMEM_HOST_BUDGET=lots");
  expect(output).toContain("CAMEM_RETIAN is set, but camem has no such variable; did you mean CAMEM_RETAIN?");
  expect(output.match(/^result .*$/gm)).toEqual([
    expect.stringContaining('CAMEM_BACKEND is "cuda"'),
    expect.stringContaining('(CAMEM_HOST_BUDGET) is "lots"'),
  ]);
});

test("camem doctor refuses a backend that does not exist", () => {
  const { exitCode, output, errors } = camem(["doctor", "--backend", "emulater"]);
  expect({ exitCode, output }).toEqual({ exitCode: 2, output: "" });
  expect(errors).toContain('--backend is "emulater"; it must be "ascend" or "emulator"');
});

test("camem doctor knows every variable of docs/configuration.md and docs/testing.md", () => {
  const texts = ["configuration.md", "testing.md"].map((name) =>
    readFileSync(join(import.meta.dir, "../../docs", name), "utf8"),
  );
  const names = new Set(texts.join("\n").match(/\bCAMEM_[A-Z_]*[A-Z]\b/g));
  expect(names.size).toBeGreaterThan(20);
  expect([...unknownVariables(Object.fromEntries([...names].map((name) => [name, "1"]))).keys()]).toEqual([]);
});

test("camem prints its version or its help when asked", () => {
  expect(camem(["--version"])).toEqual({ exitCode: 0, output: `${manifest.version}\n`, errors: "" });
  const help = camem(["help"]);
  expect(help).toEqual(camem(["--help"]));
  expect(help.output).toStartWith("usage: camem <command> [options]");
  expect(help.exitCode).toBe(0);
});

const verbs = [...camem(["--help"]).output.matchAll(/^ {2}(\w+) +\S/gm)].map(([, verb = ""]) => verb);

test("camem --help lists every command", () => {
  expect(verbs).toEqual(expect.arrayContaining(["doctor", "sleep", "wake", "status"]));
});

test.each(verbs)("camem %s --help states the purpose, options with defaults, and examples", (verb) => {
  const { exitCode, output } = camem([verb, "--help"]);
  expect(exitCode).toBe(0);
  expect(output).toEqual(camem(["help", verb]).output);
  expect(output).toMatch(new RegExp(`^usage: camem ${verb} .*\\n\\n[A-Z].*\\.\\n`));
  const options = /^options:\n((?: {2}.*\n)+)/m.exec(output)?.[1] ?? "";
  expect(options).toMatch(/^ {2}--\w+.* {2}\S/m);
  // An option with a value says what counts without it.
  for (const [entry] of options.matchAll(/^ {2}--[\w-]+ <.*$/gm))
    expect(entry).toMatch(/by default|needed|may/);
  expect(output).toMatch(new RegExp(`^examples:\\n(  camem ${verb} ?.*\\n)+$`, "m"));
  for (const line of output.split("\n")) expect(line.length).toBeLessThanOrEqual(110);
});

test("camem doctor --json describes the same as an object", () => {
  const variables = { CAMEM_BACKEND: "emulator", CAMEM_EMULATOR_DEVICES: "2", CAMEM_EMULATOR_HBM: "1GiB" };
  const { exitCode, output } = camem(["doctor", "--json"], variables);
  expect(exitCode).toBe(0);
  const memory = { freeBytes: 2 ** 30, totalBytes: 2 ** 30, granularityBytes: 2 ** 21 };
  expect(JSON.parse(output)).toMatchObject({
    camem: manifest.version,
    environment: variables,
    backend: { kind: "emulator", reason: "from CAMEM_BACKEND" },
    host: { budget: { source: expect.any(String) } },
    tried: [{ path: emulatorLibraryPath, result: "opened" }],
    runtime: {
      library: emulatorLibraryPath,
      devices: [
        { device: 0, ...memory },
        { device: 1, ...memory },
      ],
      optionalSymbols: expect.arrayContaining([{ name: "aclFinalizeReference", present: true }]),
    },
    problems: [],
    ready: true,
  });
  const failed = camem(["doctor", "--json"], { CAMEM_ACL_LIBRARY: "/no/libascendcl.so" });
  expect(failed.exitCode).toBe(1);
  expect(JSON.parse(failed.output)).toMatchObject({
    problems: [{ code: "LIBRARY_NOT_FOUND" }],
    tried: [{ path: "/no/libascendcl.so", result: expect.stringContaining("No such file") }],
    runtime: null,
    ready: false,
  });
});

test("camem doctor examines the device although a variable is invalid", () => {
  const { exitCode, output } = camem(["doctor"], { CAMEM_BACKEND: "emulator", CAMEM_HOST_BUDGET: "lots" });
  expect(exitCode).toBe(1);
  expect(output).toContain("device 0       64 GiB free of 64 GiB");
  expect(output).toContain("host budget");
  expect(output.match(/^result .*$/gm)).toEqual([expect.stringContaining('(CAMEM_HOST_BUDGET) is "lots"')]);
});

test("camem doctor warns of expandable segments, which do not sleep", () => {
  const warnings = (value: string) => {
    const { output } = camem(["doctor"], { CAMEM_BACKEND: "emulator", PYTORCH_NPU_ALLOC_CONF: value });
    return [...(output.match(/^warning .*$/gm) ?? [])];
  };
  const warning = [expect.stringContaining("expandable_segments:True: torch_npu maps such memory itself")];
  expect(warnings("max_split_size_mb:64,expandable_segments:True")).toEqual(warning);
  expect(warnings("expandable_segments: true")).toEqual(warning);
  expect(warnings("expandable_segments:False")).toEqual([]);
});

test("getInstance() warns of a misspelt variable, once and without its value", () => {
  const program = `import { CaMemAllocator } from ${JSON.stringify(join(import.meta.dir, "../../src/index.ts"))};
    for (let cycle = 0; cycle < 2; cycle++) await CaMemAllocator.getInstance({ backend: "emulator" }).close();`;
  const env = { ...process.env, CAMEM_HOST_BUGDET: "secret", CAMEM_OTHER_PROGRAM: "1" };
  const { stderr } = Bun.spawnSync([process.execPath, "-e", program], { env });
  const lines = `${stderr}`.match(/CamemWarning: .*/g);
  expect(lines).toEqual([
    "CamemWarning: CAMEM_HOST_BUGDET is set, but camem has no such variable; did you mean CAMEM_HOST_BUDGET?",
  ]);
});

test("camem doctor shows the emulator's variables and names misspelt ones without their value", () => {
  const { output } = camem(["doctor"], {
    CAMEM_BACKEND: "emulator",
    CAMEM_EMULATOR_HBM: "1GiB",
    CAMEM_EMULATOR_RUNTIME: "0",
    CAMEM_RETIAN: "secret",
    CAMEM_TOKEN: "secret",
  });
  expect(output).toContain("environment    CAMEM_EMULATOR_HBM=1GiB");
  expect(output).toContain("environment    CAMEM_EMULATOR_RUNTIME=0");
  expect(output).toContain("CAMEM_RETIAN is set, but camem has no such variable");
  expect(output).not.toContain("CAMEM_TOKEN");
  expect(output).not.toContain("secret");
});
