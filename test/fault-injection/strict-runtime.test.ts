/**
 * camem on the strict runtime: a second libascendcl.so, written independently of the emulator and as strict as AscendCL's
 * documents permit (strict-runtime/strict.h). Each scenario runs in its own process and fails when anything is left or any call
 * was misused.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zigPath } from "../../scripts/native.ts";
import { outcomeOf } from "../support/program.ts";

const COMPILE_LIMIT_MS = 300_000;
const RUN_LIMIT_MS = 120_000;

const runtimeSources = join(import.meta.dir, "strict-runtime");

async function cc(...args: string[]): Promise<void> {
  const target = `${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu.2.28`;
  const strictness = ["-std=gnu11", "-O1", "-g0", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=undefined"];
  const command = [zigPath(), "cc", "-target", target, ...strictness, ...args];
  const { stdout, stderr, exitCode } = await outcomeOf(command, { limitMs: COMPILE_LIMIT_MS });
  if (exitCode !== 0) throw new Error(`the strict runtime does not compile:\n${stdout}${stderr}`);
}

async function compile(folder: string): Promise<void> {
  const files = (await readdir(runtimeSources)).filter((name) => name.endsWith(".c"));
  await cc(
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wl,-soname,libascendcl.so",
    ...files.sort().map((name) => join(runtimeSources, name)),
    "-lpthread",
    "-o",
    join(folder, "libascendcl.so"),
  );
  const program = ["-lascendcl", "-lpthread", "-o", join(folder, "selfcheck")];
  await cc(join(import.meta.dir, "selfcheck.c"), `-L${folder}`, ...program);
}

let folder = "";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "camem-strict-"));
  await compile(folder);
  await Bun.write(join(folder, "acl.json"), "{}");
}, COMPILE_LIMIT_MS);

afterAll(async () => {
  if (folder !== "") await rm(folder, { recursive: true, force: true });
});

async function run(scenario: string, env: Record<string, string> = {}): Promise<void> {
  const command = [process.execPath, join(import.meta.dir, "scenarios/main.ts"), scenario];
  const { stdout, stderr, exitCode } = await outcomeOf(command, {
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      CAMEM_ACL_LIBRARY: join(folder, "libascendcl.so"),
      STRICT_CONFIGURATION: join(folder, "acl.json"),
      ...env,
    },
    limitMs: RUN_LIMIT_MS,
  });
  expect(stdout + stderr).toBe("");
  expect(exitCode).toBe(0);
}

test(
  "strict runtime refuses and counts each misuse, and nothing else",
  async () => {
    const outcome = await outcomeOf([join(folder, "selfcheck")], {
      env: { LD_LIBRARY_PATH: folder },
      limitMs: RUN_LIMIT_MS,
    });
    expect(outcome).toEqual({ stdout: "", stderr: "", exitCode: 0 });
  },
  RUN_LIMIT_MS,
);

interface Scenario {
  readonly title: string;
  readonly name: string;
  readonly env?: Record<string, string>;
}

const scenarios: readonly Scenario[] = [
  { title: "camem leaves nothing after a full lifecycle on two devices", name: "lifecycle" },
  { title: "getInstance() opens again after close()", name: "reopen" },
  { title: "sleep() and wakeUp() change nothing when aborted at any stage", name: "abortTransitions" },
  { title: "sleep() and wakeUp() succeed on retry after a failed call", name: "retryAfterFailure" },
  { title: "camem recovers when any one AscendCL call fails", name: "everyCallFailsOnce" },
  { title: "camem recovers when every AscendCL call from one on fails", name: "everyLaterCallFails" },
  { title: "camem recovers when any two AscendCL calls fail", name: "everyPairOfCallsFails" },
  { title: "camem leaves the context of a host engine that owns AscendCL alone", name: "hostEngineFirst" },
  {
    title: "camem attaches beside a host engine that used a configuration file",
    name: "hostEngineWithConfiguration",
  },
  { title: "camem works beside a host engine that starts later and outlives it", name: "hostEngineLater" },
  { title: "sleep() and wakeUp() keep content while another thread allocates", name: "otherThreadAllocates" },
  {
    title: "sleep() and wakeUp() succeed when a synchronize call returns a notice",
    name: "synchronizeNotices",
  },
  { title: "sleep() and wakeUp() keep memory in use when waiting for copies fails", name: "copyWaitFails" },
  { title: "wakeUp() restores content in files larger than the staging memory", name: "fileBackedContent" },
  {
    title: "sleep() and wakeUp() keep memory in use when waiting for file copies fails",
    name: "fileCopyWaitFails",
  },
  { title: "sleep() completes after undoing an earlier sleep failed", name: "undoFails" },
  { title: "close() succeeds after a host engine reset the device", name: "hostEngineResetsDevice" },
  { title: "read() reports a failed query of the current context", name: "contextQueryFails" },
  { title: "camem works on threads with a destroyed context over several sessions", name: "staleContexts" },
  {
    title: "camem works on threads with a destroyed context after close() failed",
    name: "closeFailsHalfway",
  },
  { title: "read() succeeds when AscendCL refuses a living context once", name: "contextRefusedOnce" },
  {
    title: "malloc() restores a primary context that an earlier session left and a host engine holds",
    name: "primaryContextOutlivesSession",
  },
  {
    title: "getInstance() throws BACKEND_UNAVAILABLE when there is no device",
    name: "noDevice",
    env: { STRICT_DEVICES: "0" },
  },
  {
    title: "malloc() and wakeUp() throw OUT_OF_DEVICE_MEMORY when device memory is short",
    name: "shortDeviceMemory",
    env: { STRICT_HBM: String(64 << 20) },
  },
];

test.each(scenarios)("$title", ({ name, env }) => run(name, env), RUN_LIMIT_MS);

test.each([
  { when: "after a failed free() that a later plan completed", name: "reuseAfterFailedFree" },
  { when: "after free() while a plan moved the buffer", name: "reuseAfterFreeWhileMoving" },
  { when: "after a failed close()", name: "reuseAfterFailedClose" },
])(
  "freed buffers and their backups reach no other buffer at the same address $when",
  ({ name }) => run(name, { STRICT_REUSE_ADDRESSES: "1" }),
  RUN_LIMIT_MS,
);

const repeated = [
  "lifecycle",
  "reopen",
  "hostEngineFirst",
  "hostEngineWithConfiguration",
  "hostEngineLater",
  "otherThreadAllocates",
  "undoFails",
];

const contexts = [
  "contextQueryFails",
  "contextRefusedOnce",
  "staleContexts",
  "closeFailsHalfway",
  "primaryContextOutlivesSession",
];

/** Behaviour that no document of AscendCL defines: camem must work with each. */
const variants: readonly { where: string; env: Record<string, string>; names: readonly string[] }[] = [
  {
    where: "addresses are reused at once",
    env: { STRICT_REUSE_ADDRESSES: "1" },
    names: [...repeated, "everyCallFailsOnce", "hostEngineResetsDevice", "shortDeviceMemory"],
  },
  {
    where: "a destroyed context stays current",
    env: { STRICT_STALE_CONTEXT: "keep", STRICT_REUSE_ADDRESSES: "1" },
    names: [...repeated, ...contexts, "everyCallFailsOnce"],
  },
  {
    where: "a destroyed context is refused",
    env: { STRICT_STALE_CONTEXT: "107000", STRICT_REUSE_ADDRESSES: "1" },
    names: [...repeated, ...contexts],
  },
];

for (const { where, env, names } of variants) {
  const selected = scenarios.filter(({ name }) => names.includes(name));
  test.each(selected)(
    `$title, where ${where}`,
    ({ name, env: more }) => run(name, { ...more, ...env }),
    RUN_LIMIT_MS,
  );
}
