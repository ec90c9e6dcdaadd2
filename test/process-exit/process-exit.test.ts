/**
 * Processes and Workers that end with memory asleep or a plan running: nothing hangs, crashes or is freed twice, and what was
 * closed holds nothing. Each is a process of its own.
 */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";

/** Ten times what the slowest takes. */
const limitMs = 20_000;

/** How often what depends on a race is done; what meets its moment every time, but not the same one, is done a few times. */
const many = Number(process.env["CAMEM_TEST_CYCLES"] ?? 20);
const few = 4;

interface Ended {
  readonly exitCode: number | null;
  readonly signal: Bun.Subprocess["signalCode"];
  readonly stdout: string;
  readonly stderr: string;
}

interface Start {
  readonly script?: string;
  /** Sent once the process has printed "ready", after a pause. */
  readonly signal?: NodeJS.Signals;
  readonly pauseMs?: number;
}

/** Runs a process to its end; one that does not end is killed and reported. */
async function run(name: string, { script = "cases.ts", signal, pauseMs = 0 }: Start = {}): Promise<Ended> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, script), name], {
    env: { ...process.env, CAMEM_EMULATOR_DEVICES: "2" },
    stdout: "pipe",
    stderr: "pipe",
  });
  let hung = false;
  const timer = setTimeout(() => {
    hung = true;
    child.kill("SIGKILL");
  }, limitMs);
  let stdout = "";
  const reading = (async () => {
    const decoder = new TextDecoder();
    for await (const bytes of child.stdout) {
      const wasReady = stdout.includes("ready\n");
      stdout += decoder.decode(bytes, { stream: true });
      if (signal === undefined || wasReady || !stdout.includes("ready\n")) continue;
      await Bun.sleep(pauseMs);
      child.kill(signal);
    }
  })();
  const [stderr] = await Promise.all([new Response(child.stderr).text(), reading, child.exited]);
  clearTimeout(timer);
  if (hung) throw new Error(`"${name}" hangs; it printed:\n${stdout}${stderr}`);
  return { exitCode: child.exitCode, signal: child.signalCode, stdout, stderr };
}

const exits = (stdout: string, exitCode = 0): Ended => ({ exitCode, signal: null, stdout, stderr: "" });

const killed = (signal: NodeJS.Signals): Ended => ({ exitCode: null, signal, stdout: "ready\n", stderr: "" });

/** Bun's own report of an error that nobody caught, and nothing of a crash. */
async function expectUncaught(name: string): Promise<void> {
  const { stderr, ...rest } = await run(name);
  expect(rest).toEqual({ exitCode: 1, signal: null, stdout: "ready\n" });
  expect(stderr).toContain("error: thrown on purpose");
  expect(stderr).not.toMatch(/panic|crash|segfault|segmentation|corrupt|double free|abort|thread \d+/i);
}

async function repeat(times: number, attempt: (round: number) => Promise<void>): Promise<void> {
  for (let round = 0; round < times; round++) await attempt(round);
}

const longMs = 2 * limitMs + many * 2000;

// A process that hangs is reported by `run`, not by the runner.
setDefaultTimeout(longMs);

describe("a process ends", () => {
  test.each(["exit asleep", "end asleep", "end awake", "end after close"])("%s", async (name) => {
    expect(await run(name)).toEqual(exits("ready\n"));
  });

  test("by itself, once the sleep that nobody awaits has ended", async () => {
    expect(await run("end while a sleep runs")).toEqual(exits("ready\noffloaded\n"));
  });

  test("while a sleep waits for the device", async () => {
    expect(await run("exit while a sleep waits")).toEqual(exits("ready\n"));
  });

  test.each([
    { name: "exit in mid-sleep", times: few },
    { name: "exit in mid-wake", times: few },
    { name: "exit while closing", times: few },
    { name: "exit at any time", times: many },
    { name: "exit code at any time", times: few, exitCode: 7 },
    { name: "exit while a Worker sleeps and wakes", times: many },
  ])("$name, $times times", ({ name, times, exitCode }) =>
    repeat(times, async () => expect(await run(name)).toEqual(exits("ready\n", exitCode))),
  );

  test.each(["throw while a sleep waits", "throw in mid-copy", "reject in mid-copy"])("%s", expectUncaught);
});

describe("a signal ends a process", () => {
  test.each(["SIGTERM", "SIGINT", "SIGKILL"] as const)(
    "%s while a sleep waits for the device",
    async (signal) => {
      expect(await run("signal while a sleep waits", { signal })).toEqual(killed(signal));
    },
  );

  test.each(["SIGTERM", "SIGINT", "SIGKILL"] as const)("%s in a wake-up", async (signal) => {
    await repeat(few, async (round) =>
      expect(await run("signal in mid-wake", { signal, pauseMs: round })).toEqual(killed(signal)),
    );
  });

  test("SIGTERM at any time, many times", async () => {
    await repeat(many, async () =>
      expect(await run("kill at any time", { signal: "SIGTERM" })).toEqual(killed("SIGTERM")),
    );
  });

  test("SIGINT with a handler that aborts the wake-up", async () => {
    await repeat(few, async () =>
      expect(await run("signal aborts a wake-up", { signal: "SIGINT" })).toEqual(
        exits("ready\nnothing held\n"),
      ),
    );
  });

  test("SIGTERM in a server, by default", async () => {
    await repeat(few, async (round) => {
      const start = { script: "server.ts", signal: "SIGTERM", pauseMs: round } as const;
      expect(await run("default", start)).toEqual(killed("SIGTERM"));
    });
  });

  test("SIGTERM in a server that closes everything first", async () => {
    await repeat(many, async (round) => {
      const start = { script: "server.ts", signal: "SIGTERM", pauseMs: round } as const;
      expect(await run("handler", start)).toEqual(exits("ready\nnothing held\n"));
    });
  });
});

describe("nothing is held after", () => {
  test.each(["throw inside useMemoryPool", "using disposes"])("%s", async (name) => {
    expect(await run(name)).toEqual(exits("nothing held\n"));
  });

  test.each([
    "Worker terminated while its sleep waits",
    "Worker terminated while it waits inside a call",
    "Worker exits while its sleep waits",
  ])("%s", async (name) => {
    expect(await run(name)).toEqual(exits("nothing held\n"));
  });

  test.each(["Worker terminated at any time", "Worker exits at any time"])("%s, many times", (name) =>
    repeat(many, async () => expect(await run(name)).toEqual(exits("nothing held\n"))),
  );
});
