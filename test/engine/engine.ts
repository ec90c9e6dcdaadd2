/**
 * Builds and drives the engine of `program/`: a program that allocates by itself and knows nothing of camem. It
 * runs on the emulator, also where there is an NPU, because its kernels are host functions.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { RemoteAllocator, type RemoteOptions } from "camem";
import { zigPath } from "../../scripts/native.ts";

const root = resolve(import.meta.dir, "../..");
const sources = join(import.meta.dir, "program");
const native = join(root, "native", `linux-${process.arch}`);
const emulatorFolder = join(native, "emulator");

/** The library as it ships. */
export const preloadLibrary = join(native, "libcamem_preload.so");

/** How the engine has AscendCL: linked, or inside a plug-in that is loaded with RTLD_LOCAL. */
export type Linkage = "linked" | "plug-in";

/** The engine, or the program that makes one call of AscendCL's for each command. */
type Program = Linkage | "probe";

export interface BuiltEngine {
  readonly folder: string;
  /** The command that starts a program, without options. */
  command(program: Program): string[];
}

/** Where the engines of this process make their control sockets. */
const socketFolder = mkdtempSync(join(tmpdir(), "camem-sockets-"));
process.on("exit", () => rmSync(socketFolder, { recursive: true, force: true }));

const target = `${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu.2.28`;
const compilerFlags = ["-target", target, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"];
const ascendcl = [`-L${emulatorFolder}`, "-Wl,--no-as-needed", "-lascendcl"];

function run(command: string[], cwd: string): void {
  const result = Bun.spawnSync(command, { cwd, stdout: "ignore", stderr: "pipe" });
  if (result.exitCode !== 0) throw new Error(`${command.join(" ")} failed:\n${result.stderr}`);
}

/** Compiles a C program of the test against AscendCL. */
export function compile(output: string, files: readonly string[], flags: readonly string[] = []): void {
  const paths = files.map((file) => join(sources, file));
  const command = [zigPath(), "cc", ...compilerFlags, "-fno-sanitize=undefined", ...flags, ...paths];
  run([...command, "-lpthread", "-ldl", "-o", output], sources);
}

/** Compiles the engine and the library with triggers into a new temporary folder, which the caller removes. */
export function buildEngine(): BuiltEngine {
  const folder = mkdtempSync(join(tmpdir(), "camem-engine-"));
  const backend = ["model.c", "kernel.c", "scratch.c"];
  const plugIn = join(folder, "libengine_backend.so");
  compile(plugIn, backend, ["-shared", "-fPIC", ...ascendcl]);
  compile(join(folder, "engine"), ["main.c", "http.c"]);
  compile(join(folder, "engine-linked"), ["main.c", "http.c", ...backend], ["-DENGINE_LINKED", ...ascendcl]);
  compile(join(folder, "liboperator.so"), ["operator.c"], ["-shared", "-fPIC", ...ascendcl]);
  const operator = [`-L${folder}`, "-loperator", `-Wl,-rpath,${folder}`];
  compile(join(folder, "probe"), ["probe.c"], [...ascendcl, ...operator]);
  return {
    folder,
    command: (program) =>
      ({
        linked: [join(folder, "engine-linked")],
        "plug-in": [join(folder, "engine"), "--backend", plugIn],
        probe: [join(folder, "probe")],
      })[program],
  };
}

export interface EngineOptions {
  readonly program?: Program;
  /** The library to load in front of AscendCL; none by default. */
  readonly preload?: string;
  readonly arguments?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
}

/** A running engine. Each command is one line, and so is its answer. */
export class EngineProcess implements AsyncDisposable {
  readonly process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly #lines: AsyncIterator<string>;

  constructor(command: readonly string[], { preload, environment, ...options }: EngineOptions) {
    this.process = Bun.spawn([...command, ...(options.arguments ?? [])], {
      env: {
        LD_LIBRARY_PATH: emulatorFolder,
        CAMEM_EMULATOR_DEVICES: "2",
        CAMEM_SOCKET_DIR: socketFolder,
        ...(preload === undefined ? {} : { LD_PRELOAD: preload }),
        ...environment,
      },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.#lines = linesOf(this.process.stdout);
  }

  /** Starts the engine and waits until it is ready. */
  static async start(engine: BuiltEngine, options: EngineOptions = {}): Promise<EngineProcess> {
    const started = new EngineProcess(engine.command(options.program ?? "linked"), options);
    await started.answer();
    return started;
  }

  /** The next line, without "ok". Rejects with what the engine says where it failed. */
  async answer(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done === true)
      throw new Error(`the engine has ended: ${await new Response(this.process.stderr).text()}`);
    if (value.startsWith("ok")) return value.slice(3);
    throw new Error(value);
  }

  /** Writes a command and returns its answer. */
  async ask(line: string): Promise<string> {
    this.process.stdin.write(`${line}\n`);
    this.process.stdin.flush();
    return this.answer();
  }

  /** Connects to the preload library in the engine, which serves from the first allocation on. */
  connect(options: RemoteOptions = {}): Promise<RemoteAllocator> {
    return RemoteAllocator.connect({ path: join(socketFolder, `${this.process.pid}.sock`) }, options);
  }

  /** Text of `tokens` characters on one slot. */
  generate(tokens = 8, slot = 0): Promise<string> {
    return this.ask(`generate ${slot} ${tokens} prompt`);
  }

  /** Ends the engine by its own "quit" and returns its exit code. */
  async quit(): Promise<number> {
    this.process.stdin.write("quit\n");
    this.process.stdin.end();
    return this.process.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill("SIGKILL");
    await this.process.exited;
  }
}

async function* linesOf(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
}
