/** What `camem doctor` finds out: everything that can be, also where something is wrong. */

import manifest from "../../package.json" with { type: "json" };
import { CamemError } from "../errors.ts";
import * as native from "../ffi/index.ts";
import { type HostBudget, hostBudget } from "../memory/host-budget.ts";
import { HostMemory } from "../memory/host-memory.ts";
import {
  type AllocatorOptions,
  type Config,
  checkDevice,
  environmentNames,
  resolveConfig,
} from "../options/allocator-options.ts";
import { emulatorVariables, unknownVariables } from "../options/variables.ts";

type Environment = Readonly<Record<string, string | undefined>>;

interface Problem {
  readonly code: string;
  readonly message: string;
}

interface HostReport {
  readonly machine: { readonly freeBytes: number; readonly totalBytes: number } | null;
  readonly containers: readonly {
    readonly path: string;
    readonly freeBytes: number;
    readonly limitBytes: number;
  }[];
  /** `limitBytes` is null without a limit. */
  readonly lockedMemory: { readonly limitBytes: number | null; readonly isExempt: boolean } | null;
  readonly budget: HostBudget;
}

interface RuntimeReport {
  readonly library: string;
  /** Empty when it is unknown. */
  readonly cannVersion: string;
  readonly aclVersion: string;
  readonly socName: string;
  readonly devices: readonly {
    readonly device: number;
    readonly freeBytes: number;
    readonly totalBytes: number;
    readonly granularityBytes: number;
  }[];
  readonly optionalSymbols: readonly { readonly name: string; readonly present: boolean }[];
}

/** The answer of `camem doctor --json`. Sizes are bytes. */
export interface Diagnosis {
  readonly camem: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly warnings: readonly string[];
  readonly backend: { readonly kind: Config["backend"]; readonly reason: string } | null;
  readonly host: HostReport | null;
  readonly tried: readonly { readonly path: string; readonly result: string }[];
  readonly runtime: RuntimeReport | null;
  readonly problems: readonly Problem[];
  readonly ready: boolean;
}

function problemOf(run: () => unknown): Problem | undefined {
  try {
    run();
    return undefined;
  } catch (error) {
    if (!(error instanceof CamemError)) throw error;
    return { code: error.code, message: error.message };
  }
}

/** The variables that have an effect, with their values. */
function variablesOf(environment: Environment): Record<string, string> {
  const names = [...Object.values<string>(environmentNames), ...emulatorVariables];
  return Object.fromEntries(names.flatMap((name) => (environment[name] ? [[name, environment[name]]] : [])));
}

function warningsOf(environment: Environment): string[] {
  const expandable = /expandable_segments\s*:\s*true/i.test(environment["PYTORCH_NPU_ALLOC_CONF"] ?? "");
  return [
    ...unknownVariables(environment).values(),
    ...(expandable
      ? [
          "PYTORCH_NPU_ALLOC_CONF has expandable_segments:True: torch_npu maps such memory itself, so it does not sleep; " +
            "set expandable_segments:False",
        ]
      : []),
  ];
}

/** The problem of each variable by its name, and `resolveConfig`'s own for the options. */
function checkOptions(options: AllocatorOptions, environment: Environment) {
  const variables = Object.values<string>(environmentNames).flatMap((name) => {
    const problem = problemOf(() => resolveConfig({}, { [name]: environment[name] }));
    return problem === undefined ? [] : [[name, problem] as const];
  });
  const option = problemOf(() => resolveConfig(options, {}));
  return { option, variables: new Map(variables) };
}

function reasonOf(options: AllocatorOptions, environment: Environment): string {
  if (options.backend) return "from --backend";
  if (environment[environmentNames.backend]) return `from ${environmentNames.backend}`;
  return `the default (${environmentNames.backend}=emulator chooses the emulated device)`;
}

function hostReport(config: Config, memory = new HostMemory()): HostReport {
  const lock = memory.lockLimit();
  const none = { backupBytes: 0, reusableBytes: 0 };
  return {
    machine: memory.machine() ?? null,
    containers: memory.containers(),
    lockedMemory:
      lock === undefined
        ? null
        : { ...lock, limitBytes: Number.isFinite(lock.limitBytes) ? lock.limitBytes : null },
    budget: hostBudget(config.hostBudgetBytes, memory, none),
  };
}

function runtimeReport(): RuntimeReport {
  const info = native.localNative.runtimeInfo();
  return {
    library: info.libraryPath,
    cannVersion: info.cannVersion,
    aclVersion: `${info.aclMajor}.${info.aclMinor}.${info.aclPatch}`,
    socName: info.socName,
    devices: Array.from({ length: info.deviceCount }, (_, device) => {
      const { freeBytes, totalBytes, granularityBytes } = native.localNative.memoryInfo(device);
      return { device, freeBytes, totalBytes, granularityBytes };
    }),
    optionalSymbols: native
      .symbolList()
      .filter(({ required }) => !required)
      .map(({ name, present }) => ({ name, present })),
  };
}

/** Opens the library that a configuration chooses. The device is checked last, so that a wrong number hides nothing. */
async function examine(config: Config): Promise<Pick<Diagnosis, "tried" | "runtime" | "problems">> {
  const problem = problemOf(() => native.attach(native.aclLibraryFor(config.backend, config.aclLibrary)));
  let tried: Diagnosis["tried"] = [];
  // Without the shim there is no report either.
  problemOf(() => {
    tried = native.loadReport();
  });
  if (problem !== undefined) return { tried, runtime: null, problems: [problem] };
  let runtime: RuntimeReport | null = null;
  const failure =
    problemOf(() => {
      runtime = runtimeReport();
    }) ??
    problemOf(() => {
      const { deviceCount } = native.localNative.runtimeInfo();
      checkDevice(config.device, deviceCount, `the device (${environmentNames.device})`);
    });
  await native.detach();
  return { tried, runtime, problems: failure === undefined ? [] : [failure] };
}

/** Never throws a CamemError: what fails is among the problems. */
export async function diagnose(options: AllocatorOptions, environment: Environment): Promise<Diagnosis> {
  const { option, variables } = checkOptions(options, environment);
  const problems = [...(option === undefined ? [] : [option]), ...variables.values()];
  const facts = {
    camem: manifest.version,
    environment: variablesOf(environment),
    warnings: warningsOf(environment),
  };
  // Without a backend nothing more can be said; other invalid values count as absent.
  if (option !== undefined || variables.has(environmentNames.backend))
    return { ...facts, backend: null, host: null, tried: [], runtime: null, problems, ready: false };
  const valid = Object.fromEntries(Object.entries(environment).filter(([name]) => !variables.has(name)));
  const config = resolveConfig(options, valid);
  const backend = { kind: config.backend, reason: reasonOf(options, environment) };
  const found = await examine(config);
  const all = [...problems, ...found.problems];
  return { ...facts, ...found, backend, host: hostReport(config), problems: all, ready: all.length === 0 };
}
