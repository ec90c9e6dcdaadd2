/** This Worker's attachment to AscendCL, and the properties of the runtime. */

import { sleep, sleepSync } from "../async/sleep.ts";
import { CamemError } from "../errors.ts";
import type { SharedExports } from "./exports.ts";
import { exports } from "./library.ts";
import {
  check,
  failureBytes,
  firstResult,
  statusError,
  takeFailure,
  takeFirst,
  takeFirstU32,
} from "./status.ts";
import { type Decoded, decode } from "./struct.ts";
import * as abi from "./symbols.gen.ts";

export type RuntimeInfo = Decoded<typeof abi.RuntimeInfo>;
export type MemoryInfo = Decoded<typeof abi.MemoryInfo>;

const reportBytes = 16 * 1024;

/** The lines that `fill` writes, each split at its tabs. */
function readLines(
  attempt: string,
  fill: (buffer: Uint8Array, sizeBytes: number, length: Uint8Array) => number,
): string[][] {
  const buffer = new Uint8Array(reportBytes);
  check(attempt, () => fill(buffer, buffer.length, firstResult));
  const lines = new TextDecoder().decode(buffer.subarray(0, takeFirst())).trimEnd().split("\n");
  return lines.map((line) => line.split("\t"));
}

/** Every library path that the last `attach` tried, with the result. */
export function loadReport(): { path: string; result: string }[] {
  const lines = readLines("read the report of the loader", exports().camem_load_report);
  return lines.map(([path = "", result = ""]) => {
    const prefix = `${path}: `;
    return { path, result: result.startsWith(prefix) ? result.slice(prefix.length) : result };
  });
}

/** The AscendCL symbols that the shim uses. */
export function symbolList(): { name: string; required: boolean; present: boolean }[] {
  const lines = readLines("list symbols", exports().camem_symbols);
  return lines.map(([name = "", kind, presence]) => ({
    name,
    required: kind === "required",
    present: presence === "present",
  }));
}

/** What to do about a library that cannot be used. */
function attachHint(libraryPath: string | null, status: number): string {
  const found = "the library itself was found and opened";
  if (libraryPath !== null)
    return status === abi.Status.backend_unavailable
      ? found
      : "name a libascendcl.so or libacl_rt.so in CAMEM_ACL_LIBRARY, or leave it out to search for one";
  const hint =
    status === abi.Status.backend_unavailable
      ? found
      : "install CANN and source its set_env.sh, name the library in CAMEM_ACL_LIBRARY, or set CAMEM_BACKEND=emulator to work without an NPU; tried were";
  return [hint, ...loadReport().map(({ path, result }) => `\n  ${path}: ${result}`)].join("");
}

/** Attaches this Worker to AscendCL; `libraryPath` null searches for the library. */
export function attach(libraryPath: string | null): void {
  const path = libraryPath === null ? null : Buffer.from(`${libraryPath}\0`);
  const library = libraryPath ?? "AscendCL";
  failureBytes.fill(0);
  const status = exports().camem_attach(path, failureBytes);
  if (status === abi.Status.ok) return;
  if (status === abi.Status.busy)
    throw new CamemError("CLOSED", "the allocator of this process is being closed; await its close() first");
  const failure = takeFailure();
  if (status === abi.Status.config_conflict)
    throw new CamemError(
      "CONFIG_CONFLICT",
      `cannot open ${library}: this process already uses ${failure.message}; give every Worker the same options, or close that allocator first`,
    );
  const note = attachHint(libraryPath, status);
  throw statusError(status, failure, { attempt: `use ${library}`, note });
}

/** Ends this Worker's attachment; if it is the last one, resolves when everything is released. */
export async function detach(): Promise<void> {
  const closing = beginDetach();
  while (!isDetached(closing)) await sleep(1);
}

/** Ends this Worker's attachment; blocks until everything is released if it is the last one. */
export function abandonAttachment(): void {
  awaitDetached(beginDetach());
}

/** Ends attachments that this thread still has although no JavaScript knows them; blocks like {@link abandonAttachment}. */
export function endOwnAttachments(): void {
  while (exports().camem_detach(firstResult) === abi.Status.ok) awaitDetached(takeFirst());
}

function awaitDetached(closing: number): void {
  while (!isDetached(closing)) sleepSync(1);
}

/** The number of the closing that began, or 0 where other Workers stay attached. */
function beginDetach(): number {
  check("close", () => exports().camem_detach(firstResult));
  return takeFirst();
}

function isDetached(closing: number): boolean {
  if (closing === 0) return true;
  check(
    "give everything back while closing",
    () => exports().camem_detach_poll(closing, firstResult, failureBytes),
    "the rest has been returned; call close() again to retry",
  );
  return takeFirstU32() === 1;
}

/** The properties of the runtime and its devices. */
export const runtimeCalls = (exports: () => SharedExports) => {
  return {
    runtimeInfo(): RuntimeInfo {
      const bytes = new Uint8Array(abi.RuntimeInfo.sizeBytes);
      check("read the runtime's properties", () => exports().camem_runtime_info(bytes));
      return decode(abi.RuntimeInfo, bytes);
    },

    memoryInfo(device: number): MemoryInfo {
      const bytes = new Uint8Array(abi.MemoryInfo.sizeBytes);
      check(
        () => `read the free memory of device ${device}`,
        () => exports().camem_memory_info(device, bytes, failureBytes),
      );
      return decode(abi.MemoryInfo, bytes);
    },
  };
};
