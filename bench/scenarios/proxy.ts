/** Answers through `camem run --listen`: what the proxy adds to them, and how soon one comes after a sleep. */

import { dirname, join } from "node:path";
import { CaMemAllocator } from "camem";
import { emulatorLibraryPath } from "../../src/ffi/library-files.ts";
import { freePort, post, runBehindProxy, ServingProgram } from "../camem-run.ts";
import { compile, linkingAscendCL } from "../compile.ts";
import { MiB } from "../layout.ts";
import { alternate, type Durations } from "../rounds.ts";
import type { Findings } from "../schema.ts";
import type { Context } from "../session.ts";
import { compare, median, ratios, statistic } from "../statistics.ts";

const scenario = "proxy";
const completions = "/v1/completions";
const clients = 32;
const tokenMs = 5;
const streamed = { prompt: "once", stream: true };

/** Median and 99th percentile of the durations of `count` streams, in milliseconds. Each client has one at a time. */
async function timeStreams(send: () => Promise<string>, count: number): Promise<Durations> {
  const durations: number[] = [];
  let left = count;
  const client = async () => {
    while (left-- > 0) {
      const startedMs = performance.now();
      const text = await send();
      if (!text.endsWith("data: [DONE]\n\n")) throw new Error(`a stream ended early: ${text}`);
      durations.push(performance.now() - startedMs);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  const sorted = durations.toSorted((a, b) => a - b);
  return { median: median(sorted), p99: sorted[Math.floor(sorted.length * 0.99)] ?? Number.NaN };
}

async function measureStreams({ quick, folder }: Context): Promise<Findings> {
  const port = freePort();
  const program = join(import.meta.dir, "../programs/streaming-engine.ts");
  const engine = [process.execPath, program, `${port}`, `${tokenMs}`];
  await using proxied = runBehindProxy(engine, port, { CAMEM_SOCKET_DIR: folder });
  await proxied.untilHealthy();
  const count = quick ? clients : 10 * clients;
  const parts = {
    direct: () => timeStreams(() => post(`http://127.0.0.1:${port}${completions}`, streamed), count),
    proxied: () => timeStreams(() => proxied.post(completions, streamed), count),
  };
  const rounds = await alternate(parts, { rounds: quick ? 2 : 7 });
  const labels = { scenario, case: `${clients} clients`, sizeBytes: 0, segments: 0, unit: "ms" } as const;
  const figure = (operation: string, name: string) => {
    const [own, direct] = [rounds.get("proxied", name), rounds.get("direct", name)];
    return { ...labels, operation, value: statistic(own), limit: compare("direct ones", own, direct) };
  };
  const time = ratios(rounds.get("proxied", "median"), rounds.get("direct", "median"));
  return {
    figures: [figure("stream, median", "median"), figure("stream, 99th percentile", "p99")],
    targets: [
      {
        id: "proxy",
        measured: `${clients} clients, 20 tokens with ${tokenMs} ms each`,
        value: statistic(time),
      },
    ],
    notes: [],
  };
}

async function compileEngine(folder: string): Promise<string> {
  const program = join(folder, "engine");
  const files = ["main.c", "http.c", "model.c", "kernel.c", "scratch.c"];
  const sources = files.map((name) => join(import.meta.dir, "../../test/engine/program", name));
  await compile(program, sources, ["-DENGINE_LINKED", ...linkingAscendCL, "-lpthread", "-ldl"]);
  return program;
}

/** The engine has weights and a cache on each. */
const engineDevices = 2;

/** The tests' engine in C: its kernels are functions of the host, which only the emulator runs. */
async function measureFirstAnswer({ quick, folder }: Context): Promise<Findings> {
  const [weightsBytes, cacheBytes] = quick ? [16 * MiB, 8 * MiB] : [256 * MiB, 64 * MiB];
  const program = await compileEngine(folder);
  const port = freePort();
  const sizes = ["--weights", `${weightsBytes / MiB}`, "--cache", `${cacheBytes / MiB}`, "--slots", "1"];
  const engine = [program, "--port", `${port}`, ...sizes];
  const environment = {
    LD_LIBRARY_PATH: dirname(emulatorLibraryPath),
    CAMEM_EMULATOR_DEVICES: `${engineDevices}`,
    CAMEM_SOCKET_DIR: folder,
  };
  const answer = (serving: ServingProgram) => serving.post(completions, { prompt: "Call me", max_tokens: 1 });
  const parts = {
    awakened: async () => {
      await using proxied = runBehindProxy(engine, port, environment);
      await proxied.untilHealthy();
      await proxied.untilItCanSleep();
      await answer(proxied);
      await proxied.post("/sleep?level=1");
      const startedMs = performance.now();
      await answer(proxied);
      return { answer: performance.now() - startedMs };
    },
    reloaded: async () => {
      const startedMs = performance.now();
      await using serving = new ServingProgram(engine, port, environment);
      await serving.untilHealthy();
      await answer(serving);
      return { answer: performance.now() - startedMs };
    },
  };
  const rounds = await alternate(parts, { rounds: quick ? 2 : 3 });
  const [own, reloaded] = [rounds.get("awakened", "answer"), rounds.get("reloaded", "answer")];
  return {
    figures: [
      {
        scenario,
        case: "one client",
        operation: "first answer after a sleep",
        sizeBytes: engineDevices * (weightsBytes + cacheBytes),
        segments: 0,
        unit: "ms",
        value: statistic(own),
        limit: compare("after a start of the engine", own, reloaded),
      },
    ],
    targets: [],
    notes: [],
  };
}

export async function proxy(context: Context): Promise<Findings> {
  const streams = await measureStreams(context);
  const { kind } = CaMemAllocator.getInstance().backend;
  const firstAnswer: Findings =
    kind === "emulator"
      ? await measureFirstAnswer(context)
      : {
          figures: [],
          targets: [],
          notes: ["the first answer after a sleep is measured on the emulator only"],
        };
  return {
    figures: [...streams.figures, ...firstAnswer.figures],
    targets: streams.targets,
    notes: firstAnswer.notes,
  };
}
