/** CAMEM_EMULATOR_SHARED: the memory of the devices counts for several processes. */

import { afterEach, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { rejectionMessage } from "../support/rejection.ts";

async function* linesOf(output: ReadableStream<Uint8Array>): AsyncGenerator<string, void, undefined> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of output) {
    const lines = (text + decoder.decode(chunk, { stream: true })).split("\n");
    text = lines.pop() ?? "";
    yield* lines;
  }
}

class Process implements AsyncDisposable {
  readonly child: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly #lines: AsyncIterator<string>;

  constructor(environment: Record<string, string>) {
    this.child = Bun.spawn([process.execPath, join(import.meta.dir, "shared-process.ts")], {
      env: { ...process.env, CAMEM_ACL_LIBRARY: "", CAMEM_EMULATOR_DEVICES: "2", ...environment },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.#lines = linesOf(this.child.stdout);
  }

  /** The outcome, then free and total MiB of devices 0 and 1. */
  async ask(line: string): Promise<string> {
    this.child.stdin.write(`${line}\n`);
    await this.child.stdin.flush();
    const { done, value } = await this.#lines.next();
    if (done) throw new Error(`the process ended: ${await new Response(this.child.stderr).text()}`);
    return value;
  }

  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.child.exited;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }
}

const names: string[] = [];

function sharing(): Record<string, string> {
  const name = `test-${randomUUID()}`;
  names.push(name);
  return { CAMEM_EMULATOR_SHARED: name, CAMEM_EMULATOR_HBM: "64MiB" };
}

afterEach(() => {
  for (const name of names.splice(0))
    rmSync(`/dev/shm/camem-emulator-${process.getuid?.()}-${name}`, { force: true });
});

test("aclrtMallocPhysical takes what another process has freed when they share devices", async () => {
  const shared = sharing();
  await using one = new Process(shared);
  await using other = new Process(shared);
  expect(await one.ask("allocate 48")).toBe("done 16/64 64/64");
  expect(await other.ask("allocate 32")).toBe("OUT_OF_DEVICE_MEMORY 16/64 64/64");
  expect(await one.ask("sleep")).toBe("done 64/64 64/64");
  expect(await other.ask("allocate 32")).toBe("done 32/64 64/64");
  expect(await one.ask("wake")).toBe("OUT_OF_DEVICE_MEMORY 32/64 64/64");
  expect(await other.ask("free")).toBe("done 64/64 64/64");
  expect(await one.ask("wake")).toBe("done 16/64 64/64");
  expect(await one.ask("check")).toBe("done 16/64 64/64");
});

test("aclrtGetMemInfo counts a process as nothing when it was killed", async () => {
  const shared = { ...sharing(), CAMEM_EMULATOR_RUNTIME: "2MiB" };
  await using survivor = new Process(shared);
  await using victim = new Process(shared);
  await victim.ask("allocate 40");
  expect(await survivor.ask("allocate 40")).toStartWith("OUT_OF_DEVICE_MEMORY 19.");
  await victim.kill();
  expect(await survivor.ask("allocate 40")).toStartWith("done 21.");
});

test("each process has devices of its own when they share no name", async () => {
  await using one = new Process({ CAMEM_EMULATOR_HBM: "64MiB" });
  await using other = new Process(sharing());
  await one.ask("allocate 48");
  expect(await other.ask("allocate 48")).toBe("done 16/64 64/64");
});

test("a device is shared under its own number when processes see different devices", async () => {
  const shared = sharing();
  await using both = new Process(shared);
  await using second = new Process({ ...shared, ASCEND_RT_VISIBLE_DEVICES: "1" });
  expect(await second.ask("allocate 48")).toBe("done 16/64 -");
  expect(await both.ask("check")).toBe("done 64/64 16/64");
});

test.each([
  ["a/b", "64MiB", "letters, digits"],
  ["", "64MiB", "letters, digits"],
  ["taken", "32MiB", "same CAMEM_EMULATOR_HBM"],
])(
  "getInstance() names the variable when CAMEM_EMULATOR_SHARED is %p and the memory %s",
  async (name, hbm, text) => {
    const shared = sharing();
    await using first = new Process(shared);
    await first.ask("check");
    const used = name === "taken" ? (shared["CAMEM_EMULATOR_SHARED"] ?? "") : name;
    await using second = new Process({ CAMEM_EMULATOR_SHARED: used, CAMEM_EMULATOR_HBM: hbm });
    const message = await rejectionMessage(second.ask("check"));
    expect(message).toContain("CAMEM_EMULATOR_SHARED");
    expect(message).toContain(text);
  },
);
