/**
 * camem on a second libascendcl.so, written apart from the emulator and as strict as AscendCL's documents permit
 * (strict/strict.h). Each scenario of strict/scenario.ts is a process of its own; it fails when anything is left over or any
 * call was misused.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zigPath } from "../../scripts/native.ts";

const COMPILE_LIMIT_MS = 300_000;
const RUN_LIMIT_MS = 120_000;

const sources = import.meta.dir;

interface Outcome {
  readonly output: string;
  readonly exitCode: number;
}

async function capture(
  command: string[],
  env: Record<string, string | undefined>,
  limitMs: number,
): Promise<Outcome> {
  const child = Bun.spawn(command, { env, stdout: "pipe", stderr: "pipe", timeout: limitMs });
  const [stdout, stderr, exitCode] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { output: stdout + stderr, exitCode };
}

async function cc(...args: string[]): Promise<void> {
  const target = `${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu.2.28`;
  const strictness = ["-std=gnu11", "-O1", "-g0", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=undefined"];
  const { output, exitCode } = await capture(
    [zigPath(), "cc", "-target", target, ...strictness, ...args],
    process.env,
    COMPILE_LIMIT_MS,
  );
  if (exitCode !== 0) throw new Error(`the strict library does not compile:\n${output}`);
}

async function compile(folder: string): Promise<void> {
  const files = (await readdir(sources)).filter((name) => name.endsWith(".c"));
  await cc(
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wl,-soname,libascendcl.so",
    ...files.sort().map((name) => join(sources, name)),
    "-lpthread",
    "-o",
    join(folder, "libascendcl.so"),
  );
  const program = ["-lascendcl", "-lpthread", "-o", join(folder, "selfcheck")];
  await cc(join(sources, "selfcheck/selfcheck.c"), `-L${folder}`, ...program);
}

describe("on a stricter AscendCL", () => {
  let folder = "";

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "camem-strict-"));
    await compile(folder);
    await Bun.write(join(folder, "acl.json"), "{}");
  }, COMPILE_LIMIT_MS);

  afterAll(async () => {
    if (folder !== "") await rm(folder, { recursive: true, force: true });
  });

  test(
    "the strict library refuses and counts misuse, and nothing else",
    async () => {
      const outcome = await capture([join(folder, "selfcheck")], { LD_LIBRARY_PATH: folder }, RUN_LIMIT_MS);
      expect(outcome).toEqual({ output: "", exitCode: 0 });
    },
    RUN_LIMIT_MS,
  );

  const scenarios: readonly (readonly [behaviour: string, name: string, env?: Record<string, string>])[] = [
    ["a whole life on two devices", "life"],
    ["closed and opened again", "reopen"],
    ["aborted at every stage", "abort"],
    ["failures are undone and the call made again", "failures"],
    ["every AscendCL call fails once", "everyCallOnce"],
    ["every AscendCL call fails from one on", "everyCallFromThenOn"],
    ["two AscendCL calls fail, at every distance", "everyTwoCalls"],
    ["a guest beside an engine that owns AscendCL", "guest"],
    ["a guest beside an engine with a configuration file", "guestWithConfiguration"],
    ["an engine comes later and stays longer", "hostComesLater"],
    ["allocations of another thread meanwhile", "threads"],
    ["notices of a synchronise call are no failures", "notices"],
    ["copies that cannot be waited for keep their memory", "waitingFails"],
    ["content in files goes through staging that is used again and again", "files"],
    ["copies to and from files that cannot be waited for keep their memory", "waitingFailsWithFiles"],
    ["a sleep whose undoing failed is completed by the next", "undoingFails"],
    ["an engine resets the device under camem", "hostResetsAll"],
    ["a failed question for the current context", "contextQueryFails"],
    ["threads and devices over several sessions", "staleContexts"],
    ["no device", "noDevice", { STRICT_DEVICES: "0" }],
    ["too little device memory", "tooLittle", { STRICT_HBM: String(64 << 20) }],
  ];

  const again = [
    "life",
    "reopen",
    "guest",
    "guestWithConfiguration",
    "hostComesLater",
    "threads",
    "undoingFails",
  ];

  /** What no document of AscendCL decides: camem must not care. */
  const variants: readonly { where: string; env: Record<string, string>; names: readonly string[] }[] = [
    {
      where: "where addresses are given out again at once",
      env: { STRICT_REUSE_ADDRESSES: "1" },
      names: [...again, "everyCallOnce", "hostResetsAll", "tooLittle"],
    },
    {
      where: "where a destroyed context stays current",
      env: { STRICT_STALE_CONTEXT: "keep", STRICT_REUSE_ADDRESSES: "1" },
      names: [...again, "contextQueryFails", "staleContexts"],
    },
    {
      where: "where a destroyed context is refused",
      env: { STRICT_STALE_CONTEXT: "107000", STRICT_REUSE_ADDRESSES: "1" },
      names: [...again, "contextQueryFails", "staleContexts"],
    },
  ];

  async function run(name: string, env: Record<string, string> = {}): Promise<void> {
    const { output, exitCode } = await capture(
      [process.execPath, join(sources, "scenario.ts"), name],
      {
        PATH: process.env["PATH"],
        HOME: process.env["HOME"],
        CAMEM_ACL_LIBRARY: join(folder, "libascendcl.so"),
        STRICT_CONFIGURATION: join(folder, "acl.json"),
        ...env,
      },
      RUN_LIMIT_MS,
    );
    expect(output).toBe("");
    expect(exitCode).toBe(0);
  }

  const table = scenarios.map(([behaviour, name, env]) => ({ behaviour, name, env }));

  test.each(table)("$behaviour", ({ name, env }) => run(name, env), RUN_LIMIT_MS);

  describe("where addresses are given out again at once, old buffers and backups reach into no other", () => {
    const env = { STRICT_REUSE_ADDRESSES: "1" };
    test.each([
      { when: "after a free that failed and was finished by a later plan", name: "reusedAddresses" },
      { when: "after a free while a plan moved them", name: "reusedAfterMoving" },
      { when: "after a close that failed", name: "reusedAfterFailedClose" },
    ])("$when", ({ name }) => run(name, env), RUN_LIMIT_MS);
  });

  for (const { where, env, names } of variants) {
    describe(where, () => {
      const own = table.filter(({ name }) => names.includes(name));
      test.each(own)("$behaviour", ({ name, env: more }) => run(name, { ...more, ...env }), RUN_LIMIT_MS);
    });
  }
});
