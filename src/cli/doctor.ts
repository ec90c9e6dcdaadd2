/** `camem doctor` shows the backend that would be used and why, and what is wrong where none works. */

import manifest from "../../package.json" with { type: "json" };
import { CamemError } from "../errors.ts";
import * as native from "../ffi/index.ts";
import { describeHostBudget, hostBudget } from "../memory/host-budget.ts";
import { HostMemory, type LockLimit } from "../memory/host-memory.ts";
import {
  type AllocatorOptions,
  type Config,
  checkDevice,
  environmentNames,
  resolveConfig,
} from "../options/allocator-options.ts";
import { nearestName } from "../options/nearest-name.ts";
import { formatSize } from "../options/sizes.ts";
import { type Command, refuseOperands } from "./command.ts";

export const doctor: Command = {
  synopsis: "doctor [--backend ascend|emulator]",
  description: [
    "shows the backend that would be used and why, every library path tried, the CANN version, the SoC,",
    "the devices with their memory, and which optional AscendCL symbols are present;",
    "exits with 1 when nothing works",
  ],
  options: { backend: { type: "string" } },
  // `resolveConfig` refuses unknown backends.
  run: ({ backend }, operands) => {
    refuseOperands(operands);
    return diagnose(backend === undefined ? {} : { backend: backend as "ascend" });
  },
};

function print(label: string, text: string): void {
  console.log(`${label.padEnd(14)} ${text}`);
}

function whyBackend(options: AllocatorOptions, config: Config): string {
  if (options.backend) return `${config.backend}, from --backend`;
  if (process.env[environmentNames.backend]) return `${config.backend}, from ${environmentNames.backend}`;
  return `${config.backend}, the default (${environmentNames.backend}=emulator chooses the emulated device)`;
}

function printVariables(): void {
  for (const name of Object.values(environmentNames)) {
    if (process.env[name]) print("environment", `${name}=${process.env[name]}`);
  }
  printOtherVariables();
}

const emulatorNames = ["DEVICES", "HBM", "POOL", "RUNTIME", "SHARED", "FAULTS", "TIMING"].map(
  (name) => `CAMEM_EMULATOR_${name}`,
);
/** The variables of examples/serve. */
const exampleNames = ["CAMEM_TOKEN", "CAMEM_API_KEY", "CAMEM_IDLE"];
/** The variables of engines in other processes. */
const engineNames = ["CAMEM_SOCKET_DIR"];

/** Names unknown variables, which have no effect elsewhere, without their values, which may be secrets. */
function printOtherVariables(): void {
  const known = [
    ...Object.values<string>(environmentNames),
    ...exampleNames,
    ...engineNames,
    ...emulatorNames,
  ];
  for (const [name, value] of Object.entries(process.env)) {
    if (emulatorNames.includes(name)) print("environment", `${name}=${value}`);
    else if (name.startsWith("CAMEM_") && !known.includes(name)) {
      const nearest = nearestName(name, known);
      const advice = nearest === undefined ? "" : `; did you mean ${nearest}?`;
      print("environment", `${name} is set, but camem has no such variable${advice}`);
    }
  }
}

function problemOf(options: AllocatorOptions, environment: typeof process.env): string | undefined {
  try {
    resolveConfig(options, environment);
    return undefined;
  } catch (error) {
    if (!(error instanceof CamemError)) throw error;
    return `${error.code}: ${error.message}`;
  }
}

/** Everything that is wrong with the options and with each variable; `resolveConfig` stops at the first. */
function configProblems(options: AllocatorOptions): Set<string> {
  const first = problemOf(options, process.env);
  if (first === undefined) return new Set();
  const others = Object.values(environmentNames).map((name) => problemOf({}, { [name]: process.env[name] }));
  return new Set([first, ...others.filter((problem) => problem !== undefined)]);
}

function printTried(): void {
  for (const { path, result } of native.loadReport()) print("tried", `${path}: ${result}`);
}

function cannText(backend: Config["backend"], version: string): string {
  if (version !== "") return version;
  if (backend === "emulator") return "none: the emulator needs no CANN";
  return "version unknown: ASCEND_HOME_PATH leads to no version.info";
}

/** Free host memory, what limits it, and the budget that follows. */
function printHostMemory(config: Config, memory = new HostMemory()): void {
  const machine = memory.machine();
  if (machine !== undefined)
    print("host memory", `${formatSize(machine.freeBytes)} free of ${formatSize(machine.totalBytes)}`);
  for (const { path, limitBytes, freeBytes } of memory.containers())
    print("container", `${formatSize(freeBytes)} free of ${formatSize(limitBytes)} (${path})`);
  const lock = memory.lockLimit();
  if (lock !== undefined) print("locked memory", describeLockLimit(lock));
  const none = { backupBytes: 0, reusableBytes: 0 };
  print("host budget", describeHostBudget(hostBudget(config.hostBudgetBytes, memory, none)));
}

function describeLockLimit({ limitBytes, isExempt }: LockLimit): string {
  if (limitBytes === Number.POSITIVE_INFINITY) return "no limit (ulimit -l)";
  const limit = `${formatSize(limitBytes)} (ulimit -l)`;
  return isExempt
    ? `${limit}; this process is exempt (CAP_IPC_LOCK)`
    : `${limit}; CANN's driver does not count page-locked memory against it`;
}

function printRuntime(config: Config): void {
  const info = native.localNative.runtimeInfo();
  print("library", info.libraryPath);
  print("CANN", cannText(config.backend, info.cannVersion));
  print("AscendCL API", `${info.aclMajor}.${info.aclMinor}.${info.aclPatch}`);
  print("SoC", info.socName === "" ? "unknown" : info.socName);
  for (let device = 0; device < info.deviceCount; device++) {
    const { freeBytes, totalBytes, granularityBytes } = native.localNative.memoryInfo(device);
    const memory = `${formatSize(freeBytes)} free of ${formatSize(totalBytes)}`;
    print(`device ${device}`, `${memory}, granularity ${formatSize(granularityBytes)}`);
  }
  for (const { name, required, present } of native.symbolList()) {
    if (!required) print("optional", `${name}: ${present ? "present" : "absent, not needed"}`);
  }
}

async function diagnose(options: AllocatorOptions): Promise<number> {
  print("camem", manifest.version);
  printVariables();
  const problems = configProblems(options);
  for (const problem of problems) print("result", `not usable: ${problem}`);
  if (problems.size > 0) return 1;
  try {
    const config = resolveConfig(options);
    print("backend", whyBackend(options, config));
    printHostMemory(config);
    native.attach(native.aclLibraryFor(config.backend, config.aclLibrary));
    printTried();
    printRuntime(config);
    checkDevice(
      config.device,
      native.localNative.runtimeInfo().deviceCount,
      `the device (${environmentNames.device})`,
    );
    await native.detach();
    print("result", "ready");
    return 0;
  } catch (error) {
    if (!(error instanceof CamemError)) throw error;
    print("result", `not usable: ${error.code}: ${error.message}`);
    return 1;
  }
}
