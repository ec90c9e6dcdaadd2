/** `camem doctor` shows the backend that would be used and why, and what is wrong where none works. */

import { Value } from "typebox/value";
import { describeHostBudget } from "../memory/host-budget.ts";
import { Backend } from "../options/backend.ts";
import { formatSize } from "../options/sizes.ts";
import { mismatchText } from "../options/validate.ts";
import { type Command, refuseOperands, UsageError } from "./command.ts";
import { type Diagnosis, diagnose } from "./diagnosis.ts";

export const doctor: Command = {
  synopsis: "doctor [options]",
  purpose: "shows the backend that would be used and why, and what is wrong where none works",
  details: [
    "It shows every library path tried, the CANN version, the SoC, the devices and the host with their",
    "memory, optional AscendCL symbols, variables, and misspelt ones. Exits with 1 when nothing works.",
  ],
  options: {
    backend: {
      type: "string",
      value: "<backend>",
      description: "ascend or emulator; by default CAMEM_BACKEND, else ascend",
    },
    json: { type: "boolean", description: "prints one JSON object, with sizes in bytes" },
  },
  examples: ["doctor", "doctor --backend emulator", "doctor --json"],
  run: async ({ backend, json }, operands) => {
    refuseOperands(operands);
    if (backend !== undefined && !Value.Check(Backend, backend))
      throw new UsageError(mismatchText("--backend", backend, Backend));
    const options = backend === undefined ? {} : { backend };
    const diagnosis = await diagnose(options, process.env);
    console.log(json === true ? JSON.stringify(diagnosis, null, 2) : linesOf(diagnosis).join("\n"));
    return diagnosis.ready ? 0 : 1;
  },
};

const line = (label: string, text: string) => `${label.padEnd(14)} ${text}`;

function linesOf(diagnosis: Diagnosis): string[] {
  const { environment, warnings, backend, problems } = diagnosis;
  return [
    line("camem", diagnosis.camem),
    ...Object.entries(environment).map(([name, value]) => line("environment", `${name}=${value}`)),
    ...warnings.map((text) => line("warning", text)),
    ...(backend === null ? [] : [line("backend", `${backend.kind}, ${backend.reason}`)]),
    ...hostLines(diagnosis),
    ...runtimeLines(diagnosis),
    ...problems.map(({ code, message }) => line("result", `not usable: ${code}: ${message}`)),
    ...(diagnosis.ready ? [line("result", "ready")] : []),
  ];
}

function cannText({ backend, runtime }: Diagnosis): string {
  if (runtime?.cannVersion) return runtime.cannVersion;
  if (backend?.kind === "emulator") return "none: the emulator needs no CANN";
  return "version unknown: ASCEND_HOME_PATH leads to no version.info";
}

const freeOf = (freeBytes: number, wholeBytes: number) =>
  `${formatSize(freeBytes)} free of ${formatSize(wholeBytes)}`;

/** Free host memory, what limits it, and the budget that follows. */
function hostLines({ host }: Diagnosis): string[] {
  if (host === null) return [];
  const { machine, containers, lockedMemory, budget } = host;
  return [
    ...(machine === null ? [] : [line("host memory", freeOf(machine.freeBytes, machine.totalBytes))]),
    ...containers.map(({ path, limitBytes, freeBytes }) =>
      line("container", `${freeOf(freeBytes, limitBytes)} (${path})`),
    ),
    ...(lockedMemory === null ? [] : [line("locked memory", lockText(lockedMemory))]),
    line("host budget", describeHostBudget(budget)),
  ];
}

function lockText({ limitBytes, isExempt }: { limitBytes: number | null; isExempt: boolean }): string {
  if (limitBytes === null) return "no limit (ulimit -l)";
  const limit = `${formatSize(limitBytes)} (ulimit -l)`;
  return isExempt
    ? `${limit}; this process is exempt (CAP_IPC_LOCK)`
    : `${limit}; CANN's driver does not count page-locked memory against it`;
}

function runtimeLines(diagnosis: Diagnosis): string[] {
  const { runtime } = diagnosis;
  if (runtime === null) return [];
  return [
    // Where no library can be used, the problem lists them.
    ...diagnosis.tried.map(({ path, result }) => line("tried", `${path}: ${result}`)),
    line("library", runtime.library),
    line("CANN", cannText(diagnosis)),
    line("AscendCL API", runtime.aclVersion),
    line("SoC", runtime.socName === "" ? "unknown" : runtime.socName),
    ...runtime.devices.map(({ device, freeBytes, totalBytes, granularityBytes }) =>
      line(
        `device ${device}`,
        `${freeOf(freeBytes, totalBytes)}, granularity ${formatSize(granularityBytes)}`,
      ),
    ),
    ...runtime.optionalSymbols.map(({ name, present }) =>
      line("optional", `${name}: ${present ? "present" : "absent, not needed"}`),
    ),
  ];
}
