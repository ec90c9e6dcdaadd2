/**
 * Processes and Workers that end while memory sleeps or a plan runs: nothing hangs, crashes or is freed twice, and a closed
 * allocator holds nothing. Each case runs in its own process.
 */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";

/** Ten times the duration of the slowest case. */
const limitMs = 20_000;

/** Repetitions of cases that depend on a race; cases that always reach their moment need only a few. */
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

/** Runs a process to its end; kills and reports a process that hangs. */
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

/** Expects Bun's report of an uncaught error, and no crash. */
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

// `run` reports a process that hangs before the test runner does.
setDefaultTimeout(longMs);

describe("process exit", () => {
  test.each(["exit asleep", "end asleep", "end awake", "end after close"])(
    "process ends cleanly: %s",
    async (name) => {
      expect(await run(name)).toEqual(exits("ready\n"));
    },
  );

  test("process exits once a sleep that nobody awaits ends", async () => {
    expect(await run("end while a sleep runs")).toEqual(exits("ready\noffloaded\n"));
  });

  test("process exits while a sleep waits for the device", async () => {
    expect(await run("exit while a sleep waits")).toEqual(exits("ready\n"));
  });

  test.each([
    { name: "exit in mid-sleep", times: few },
    { name: "exit in mid-wake", times: few },
    { name: "exit while closing", times: few },
    { name: "exit at any time", times: many },
    { name: "exit code at any time", times: few, exitCode: 7 },
    { name: "exit while a Worker sleeps and wakes", times: many },
  ])("process ends cleanly: $name, $times times", ({ name, times, exitCode }) =>
    repeat(times, async () => expect(await run(name)).toEqual(exits("ready\n", exitCode))),
  );

  test.each(["throw while a sleep waits", "throw in mid-copy", "reject in mid-copy"])(
    "process reports an uncaught error: %s",
    expectUncaught,
  );
});

describe("signals", () => {
  test.each(["SIGTERM", "SIGINT", "SIGKILL"] as const)(
    "process ends on %s while a sleep waits for the device",
    async (signal) => {
      expect(await run("signal while a sleep waits", { signal })).toEqual(killed(signal));
    },
  );

  test.each(["SIGTERM", "SIGINT", "SIGKILL"] as const)("process ends on %s in a wake-up", async (signal) => {
    await repeat(few, async (round) =>
      expect(await run("signal in mid-wake", { signal, pauseMs: round })).toEqual(killed(signal)),
    );
  });

  test("process ends on SIGTERM at any moment", async () => {
    await repeat(many, async () =>
      expect(await run("kill at any time", { signal: "SIGTERM" })).toEqual(killed("SIGTERM")),
    );
  });

  test("process aborts its wake-up in a SIGINT handler", async () => {
    await repeat(few, async () =>
      expect(await run("signal aborts a wake-up", { signal: "SIGINT" })).toEqual(
        exits("ready\nnothing held\n"),
      ),
    );
  });

  test("server ends on SIGTERM by default", async () => {
    await repeat(few, async (round) => {
      const start = { script: "server.ts", signal: "SIGTERM", pauseMs: round } as const;
      expect(await run("default", start)).toEqual(killed("SIGTERM"));
    });
  });

  test("server closes everything on SIGTERM", async () => {
    await repeat(many, async (round) => {
      const start = { script: "server.ts", signal: "SIGTERM", pauseMs: round } as const;
      expect(await run("handler", start)).toEqual(exits("ready\nnothing held\n"));
    });
  });
});

describe("accounting after exit", () => {
  test.each(["throw inside useMemoryPool", "using disposes"])(
    "process holds nothing after: %s",
    async (name) => {
      expect(await run(name)).toEqual(exits("nothing held\n"));
    },
  );

  test.each([
    "Worker terminated while its sleep waits",
    "Worker terminated while it waits inside a call",
    "Worker exits while its sleep waits",
  ])("process holds nothing after: %s", async (name) => {
    expect(await run(name)).toEqual(exits("nothing held\n"));
  });

  test.each(["Worker terminated at any time", "Worker exits at any time"])(
    "process holds nothing after: %s, many times",
    (name) => repeat(many, async () => expect(await run(name)).toEqual(exits("nothing held\n"))),
  );
});
