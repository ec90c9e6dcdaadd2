/** However a process ends, with memory asleep or a plan running, nothing hangs and nothing crashes. */

import { describe, expect, test } from "bun:test";
import { join } from "node:path";

const script = join(import.meta.dir, "support/ending.ts");
const hangMs = 20_000;

interface Ending {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | number | null;
  readonly errors: string;
}

/** Runs the script; sends `signal` once it has printed a line. */
async function end(way: string, signal?: "SIGTERM" | "SIGINT" | "SIGKILL"): Promise<Ending> {
  const child = Bun.spawn([process.execPath, script, way], {
    stdio: ["ignore", "pipe", "pipe"],
    env: process.env,
  });
  const killer = setTimeout(() => child.kill("SIGQUIT"), hangMs);
  if (signal) {
    const reader = child.stdout.getReader();
    await reader.read();
    reader.releaseLock();
    child.kill(signal);
  }
  const errors = await new Response(child.stderr).text();
  await child.exited;
  clearTimeout(killer);
  return { exitCode: child.exitCode, signal: child.signalCode, errors };
}

const repetitions = 5;

describe.each([
  "exit asleep",
  "end asleep",
  "exit while waiting",
  "exit while copying",
  "exit while waking",
  "throw in a region",
  "dispose",
  "dispose of the allocator with a failing device",
  "exit within a Worker",
])("%s", (way) => {
  test(
    "ends with success and says nothing",
    async () => {
      for (let repetition = 0; repetition < repetitions; repetition++)
        expect(await end(way)).toEqual({ exitCode: 0, signal: null, errors: "" });
    },
    hangMs * 2,
  );
});

test("an exception that nobody catches while a plan runs ends the process with its message", async () => {
  const { exitCode, errors } = await end("throw while copying");
  expect(exitCode).toBe(1);
  expect(errors).toContain("nobody catches this");
  expect(errors).not.toMatch(/panic|Segmentation|oh no/i);
});

test.each(["SIGTERM", "SIGINT", "SIGKILL"] as const)(
  "%s ends a process whose sleep is copying",
  async (signal) => {
    const ending = await end("signal while copying", signal);
    expect(ending.signal).toBe(signal);
    expect(ending.errors).toBe("");
  },
);

test("a server closes the allocator on SIGTERM and ends with success", async () => {
  expect(await end("signal in a server that closes", "SIGTERM")).toEqual({
    exitCode: 0,
    signal: null,
    errors: "",
  });
});
