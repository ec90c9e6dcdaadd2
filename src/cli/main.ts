#!/usr/bin/env bun
/** The `camem` command. `camem doctor` shows what backend would be used and why, and what is wrong where none works. */

import { parseArgs } from "node:util";
import manifest from "../../package.json" with { type: "json" };
import { CamemError } from "../errors.ts";
import * as native from "../ffi/index.ts";
import {
  type AllocatorOptions,
  type Config,
  checkDevice,
  environmentNames,
  resolveConfig,
} from "../options/config.ts";
import { formatSize } from "../options/sizes.ts";

const usage = `usage: camem doctor [--backend ascend|emulator]

doctor    shows the backend that would be used and why, every library path tried, the CANN version, the SoC,
          the devices with their memory, and which optional AscendCL symbols are present;
          exits with 1 when nothing works
`;

function print(label: string, text: string): void {
  console.log(`${label.padEnd(14)} ${text}`);
}

function whyBackend(options: AllocatorOptions, config: Config): string {
  if (options.backend) return `${config.backend}, from --backend`;
  if (process.env[environmentNames.backend]) return `${config.backend}, from ${environmentNames.backend}`;
  return `${config.backend}, the default (${environmentNames.backend}=emulator chooses the emulated device)`;
}

function printConfiguration(options: AllocatorOptions, config: Config): void {
  print("camem", manifest.version);
  print("backend", whyBackend(options, config));
  for (const name of Object.values(environmentNames)) {
    if (process.env[name]) print("environment", `${name}=${process.env[name]}`);
  }
  printOtherVariables();
}

const emulatorNames = ["DEVICES", "HBM", "POOL", "FAULTS", "TIMING"].map((name) => `CAMEM_EMULATOR_${name}`);
/** Those of examples/serve. */
const exampleNames = ["CAMEM_TOKEN", "CAMEM_IDLE"];

/** A misspelt variable has no effect anywhere else. Its value may be a secret. */
function printOtherVariables(): void {
  const known = new Set([...Object.values<string>(environmentNames), ...exampleNames]);
  for (const [name, value] of Object.entries(process.env)) {
    if (emulatorNames.includes(name)) print("environment", `${name}=${value}`);
    else if (name.startsWith("CAMEM_") && !known.has(name))
      print("environment", `${name} is set, but camem has no such variable`);
  }
}

function printTried(): void {
  for (const { path, result } of native.loadReport()) print("tried", `${path}: ${result}`);
}

function printRuntime(): void {
  const info = native.runtimeInfo();
  print("library", info.libraryPath);
  print(
    "CANN",
    info.cannVersion === "" ? "version unknown: ASCEND_HOME_PATH leads to no version.info" : info.cannVersion,
  );
  print("AscendCL API", `${info.aclMajor}.${info.aclMinor}.${info.aclPatch}`);
  print("SoC", info.socName === "" ? "unknown" : info.socName);
  for (let device = 0; device < info.deviceCount; device++) {
    const { freeBytes, totalBytes, granularityBytes } = native.memoryInfo(device);
    const memory = `${formatSize(freeBytes)} free of ${formatSize(totalBytes)}`;
    print(`device ${device}`, `${memory}, granularity ${formatSize(granularityBytes)}`);
  }
  for (const { name, required, present } of native.symbolList()) {
    if (!required) print("optional", `${name}: ${present ? "present" : "absent, done without"}`);
  }
}

async function doctor(options: AllocatorOptions): Promise<number> {
  try {
    const config = resolveConfig(options);
    printConfiguration(options, config);
    native.attach(config.aclLibrary ?? (config.backend === "emulator" ? native.emulatorLibraryPath : null));
    printTried();
    printRuntime();
    checkDevice(config.device, native.runtimeInfo().deviceCount, `the device (${environmentNames.device})`);
    await native.detach();
    print("result", "ready");
    return 0;
  } catch (error) {
    if (!(error instanceof CamemError)) throw error;
    print("result", `not usable: ${error.code}: ${error.message}`);
    return 1;
  }
}

async function main(): Promise<number> {
  try {
    const { values, positionals } = parseArgs({
      options: { backend: { type: "string" }, help: { type: "boolean", short: "h" } },
      allowPositionals: true,
    });
    if (values.help) {
      console.log(usage);
      return 0;
    }
    if (positionals.length === 0) throw new TypeError("say which command");
    if (positionals.length !== 1 || positionals[0] !== "doctor")
      throw new TypeError(`there is no command "${positionals.join(" ")}"`);
    // `resolveConfig` refuses a backend that does not exist.
    return await doctor(values.backend === undefined ? {} : { backend: values.backend as "ascend" });
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    // Past its first sentence, the message of `parseArgs` advises on arguments that begin with a dash.
    console.error(`camem: ${error.message.split(". ")[0]}\n${usage}`);
    return 2;
  }
}

process.exitCode = await main();
