/** An engine in a process of its own, without AscendCL symbols in front: see shim/src/control_program.zig. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zigBuild } from "../../scripts/native.ts";

const programPath = join(import.meta.dir, "../../native/test/control-program");

export async function buildControlProgram(): Promise<void> {
  await zigBuild("control-program");
}

export interface ControlProgram extends AsyncDisposable {
  readonly pid: number;
  /** The path of its socket. */
  readonly path: string;
  /** Sends a line and returns what the program prints for it. */
  tell(command: "verify" | "touch" | "fork" | "renew" | "stop"): Promise<string>;
  kill(signal?: NodeJS.Signals): Promise<void>;
}

/** Starts an engine with a segment for each of `segments`, such as `default=4` for 4 MiB. */
export async function startControlProgram(
  segments: readonly string[],
  { folder, ...environment }: { folder?: string; [variable: string]: string | undefined } = {},
): Promise<ControlProgram> {
  const own = folder ?? mkdtempSync(join(tmpdir(), "camem-sockets-"));
  const child = Bun.spawn([programPath, ...segments], {
    env: { ...process.env, ...environment, CAMEM_SOCKET_DIR: own },
    stdin: "pipe",
    stdout: "pipe",
    stderr: "ignore",
  });
  const lines = linesOf(child.stdout);
  if ((await lines.next()).value !== "serving") throw new Error("the control program does not serve");
  const kill = async (signal: NodeJS.Signals = "SIGKILL") => {
    child.kill(signal);
    await child.exited;
  };
  return {
    pid: child.pid,
    path: join(own, `${child.pid}.sock`),
    kill,
    async tell(command) {
      child.stdin.write(`${command}\n`);
      const printed: string[] = [];
      for (let line = await lines.next(); line.value !== "done"; line = await lines.next()) {
        if (line.done) throw new Error(`the control program ended at ${command}`);
        printed.push(line.value);
      }
      return printed.join("\n");
    },
    async [Symbol.asyncDispose]() {
      await kill();
      if (folder === undefined) rmSync(own, { recursive: true, force: true });
    },
  };
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, undefined> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of stream) {
    const [last = "", ...whole] = (rest + decoder.decode(bytes, { stream: true })).split("\n").reverse();
    rest = last;
    yield* whole.reverse();
  }
}
