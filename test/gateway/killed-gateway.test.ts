/** The command `camem gateway`: its arguments, its signals, and what a killed one leaves behind. */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "../run/run-fixture.ts";
import { until } from "../support/fake-engine.ts";

const folder = mkdtempSync(join(tmpdir(), "camem-gateway-"));
afterAll(() => rmSync(folder, { recursive: true }));

const program = join(import.meta.dir, "../run/engine-program.ts");

class Command implements AsyncDisposable {
  readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  errors = "";

  constructor(...args: string[]) {
    this.child = Bun.spawn(
      [process.execPath, join(import.meta.dir, "../../src/cli/main.ts"), "gateway", ...args],
      {
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe",
      },
    );
    void this.#read();
  }

  /** The number of the first engine's process. */
  get enginePid(): number {
    return Number(/started \(pid (\d+)/.exec(this.errors)?.[1] ?? 0);
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    for await (const piece of this.child.stderr) this.errors += decoder.decode(piece, { stream: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill("SIGTERM");
    await this.child.exited;
  }
}

function fileFor(port: number, behaviour = ""): string {
  const path = join(folder, `${port}.yaml`);
  const command = [process.execPath, program, "$" + "{PORT}", behaviour];
  writeFileSync(
    path,
    `listen: 127.0.0.1:${port}\nengines: { one: { command: ${JSON.stringify(command.filter(Boolean))}, preload: true } }`,
  );
  return path;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test("camem gateway ends the engines of a killed gateway at its address", async () => {
  const file = fileFor(freePort());
  await using killed = new Command(file);
  await until(() => killed.enginePid > 0);
  killed.child.kill("SIGKILL");
  await killed.child.exited;
  expect(isAlive(killed.enginePid)).toBe(true);
  await using next = new Command(file);
  await until(() => !isAlive(killed.enginePid));
  await until(() => next.enginePid > 0);
  expect(next.errors).toContain("ending 1 processes of an earlier gateway at this address");
}, 30_000);

test("camem gateway kills its engines when it is asked to end twice", async () => {
  await using command = new Command(fileFor(freePort(), "ignores-sigterm"));
  await until(() => command.errors.includes("has used no device memory"));
  command.child.kill("SIGINT");
  await Bun.sleep(100);
  command.child.kill("SIGINT");
  expect(await command.child.exited).toBe(0);
  expect(isAlive(command.enginePid)).toBe(false);
}, 30_000);

test("camem gateway says what is wrong", async () => {
  const broken = join(folder, "broken.yaml");
  writeFileSync(broken, "engines:\n  a: { comand: x }\n");
  using taken = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const cases = [
    [[], 2, "give the gateway one file"],
    [["a", "b"], 2, "give the gateway one file"],
    [["--schema", "a"], 2, "--schema takes no file"],
    [[broken], 1, "broken.yaml:2:8: engines.a has no"],
    [[join(folder, "none.yaml")], 1, "cannot read"],
    [[fileFor(taken.port ?? 0)], 1, "another program listens there"],
  ] as const;
  for (const [args, exitCode, message] of cases) {
    const command = new Command(...args);
    expect(await command.child.exited).toBe(exitCode);
    await until(() => command.errors.includes(message));
  }
}, 30_000);

test("camem gateway checks a file and prints the schema", async () => {
  const checking = new Command(fileFor(1), "--check");
  expect(await new Response(checking.child.stdout).text()).toContain("is valid: one");
  const printing = new Command("--schema");
  expect(JSON.parse(await new Response(printing.child.stdout).text())).toHaveProperty("properties.engines");
}, 30_000);
