import { join } from "node:path";
import { CaMemAllocator, CamemError, formatSize } from "camem";
import { chooseBackend } from "./backend.ts";
import { readConfig } from "./config.ts";
import { generate } from "./greedy-decoder.ts";
import { KvCache } from "./kv-cache.ts";
import { type Ready, TinyLlama } from "./model.ts";
import { type DemoOptions, parseOptions, UsageError, usage } from "./options.ts";
import { Report, withProgress } from "./report.ts";

const modelDirectory = join(import.meta.dirname, "model");

/** What `--json` prints, on one line. Sizes are in bytes, durations in milliseconds. */
interface Result {
  readonly backend: "ascend" | "emulator";
  readonly freeBefore: number;
  readonly freeLoaded: number;
  readonly freeAsleep: number;
  readonly freeAwake: number;
  readonly weightsBytes: number;
  readonly kvBytes: number;
  readonly textBefore: string;
  readonly textAfter: string;
  readonly textAfterReload: string;
  readonly equal: boolean;
  readonly sleepMs: number;
  readonly wakeMs: number;
}

/** The allocator, the loaded model, and the report. */
interface Demo {
  readonly allocator: CaMemAllocator;
  readonly model: TinyLlama;
  readonly options: DemoOptions;
  readonly report: Report;
  readonly failures: string[];
}

async function main(args: readonly string[]): Promise<void> {
  const options = parseOptions(args);
  if (options.help) {
    console.log(usage);
    return;
  }
  const neededBytes = KvCache.neededBytes(await readConfig(modelDirectory));
  if (options.kvCacheBytes < neededBytes) {
    throw new UsageError(
      `--kv-cache is ${formatSize(options.kvCacheBytes)}, but the model needs at least ${formatSize(neededBytes)}.`,
    );
  }
  const report = new Report(options.json);
  const { backend, reason } =
    options.backend === undefined
      ? await chooseBackend()
      : { backend: options.backend, reason: "chosen with --backend" };
  report.headline(`Backend: ${backend}; ${reason}`);
  const allocator = CaMemAllocator.getInstance({ backend });
  try {
    const failures = await runDemo(allocator, options, report);
    for (const failure of failures) console.error(`Check failed: ${failure}`);
    if (failures.length > 0) process.exitCode = 1;
  } finally {
    await allocator.close();
  }
}

async function runDemo(allocator: CaMemAllocator, options: DemoOptions, report: Report): Promise<string[]> {
  const { freeBytes: freeBefore } = allocator.memGetInfo();
  report.line("Free device memory", formatSize(freeBefore));
  const model = await TinyLlama.load(modelDirectory, allocator, options.kvCacheBytes);
  const demo: Demo = { allocator, model, options, report, failures: [] };
  const { freeBytes: freeLoaded } = allocator.memGetInfo();
  report.line("  with the model loaded", formatSize(freeLoaded));
  report.line("Size of the weights", formatSize(model.weightsBytes));
  report.line("Size of the key-value cache", formatSize(options.kvCacheBytes));
  const textBefore = await write(demo, "Written before the sleep");

  // The text begins while the wake-up still copies: each layer computes as soon as it is back.
  let writing: Promise<string> | undefined;
  const level1 = await sleepAndWake(demo, freeBefore, 1, async () => {
    const wake = allocator.wakeUp({ order: model.wakeOrder });
    writing = write(demo, "Written after a level 1 sleep", (memory) => wake.ready(memory));
    await Promise.race([wake, writing.then(() => wake)]);
  });
  const textAfter = (await writing) ?? "";

  await sleepAndWake(demo, freeBefore, 2, () => wakeAndReload(demo));
  const textAfterReload = await write(demo, "Written after a level 2 sleep and a reload");

  const equal = textBefore === textAfter && textBefore === textAfterReload;
  if (textBefore !== textAfter) demo.failures.push("the text after the level 1 sleep differs");
  if (textBefore !== textAfterReload) demo.failures.push("the text after the reload differs");
  if (equal) report.line("All three texts are equal.");
  const result: Result = {
    backend: allocator.backend.kind,
    freeBefore,
    freeLoaded,
    freeAsleep: level1.freeAsleep,
    freeAwake: level1.freeAwake,
    weightsBytes: model.weightsBytes,
    kvBytes: options.kvCacheBytes,
    textBefore,
    textAfter,
    textAfterReload,
    equal,
    sleepMs: level1.sleepMs,
    wakeMs: level1.wakeMs,
  };
  report.result(result);
  model.free();
  return demo.failures;
}

async function write({ model, options, report }: Demo, label: string, ready?: Ready): Promise<string> {
  const prompt = new TextEncoder().encode(options.prompt);
  const bytes = await withProgress("Writing", async (update) =>
    generate(model, prompt, options.tokens, { ready, onByte: (done) => update(done, options.tokens) }),
  );
  // The last byte may split a character, which the decoder replaces.
  const text = new TextDecoder().decode(bytes);
  report.text(label, options.prompt, text);
  return text;
}

async function sleepAndWake(
  demo: Demo,
  freeBefore: number,
  level: 1 | 2,
  wakeUp: () => Promise<void>,
): Promise<Pick<Result, "freeAsleep" | "freeAwake" | "sleepMs" | "wakeMs">> {
  const { allocator, model, report, failures } = demo;
  const sleepMs = await measureMs(() =>
    withProgress("Going to sleep", (update) =>
      allocator.sleep({ level, onProgress: ({ bytesDone, bytesTotal }) => update(bytesDone, bytesTotal) }),
    ),
  );
  const { freeBytes: freeAsleep } = allocator.memGetInfo();
  report.line(`Level ${level} sleep took`, formatDuration(sleepMs));
  report.line("  free device memory", formatSize(freeAsleep));
  const usedBytes = freeBefore - freeAsleep;
  report.line("  still in use", formatSize(usedBytes));
  if (usedBytes >= model.weightsBytes) {
    failures.push(
      `at level ${level}, ${usedBytes} bytes are still in use, which is not less than the ${model.weightsBytes} bytes of the weights`,
    );
  }
  const wakeMs = await measureMs(wakeUp);
  const { freeBytes: freeAwake } = allocator.memGetInfo();
  report.line("Wake-up took", formatDuration(wakeMs));
  report.line("  free device memory", formatSize(freeAwake));
  return { freeAsleep, freeAwake, sleepMs, wakeMs };
}

function wake({ allocator }: Demo, tags?: readonly string[]): Promise<void> {
  return withProgress("Waking up", async (update) => {
    await allocator.wakeUp({
      ...(tags === undefined ? {} : { tags }),
      onProgress: ({ bytesDone, bytesTotal }) => update(bytesDone, bytesTotal),
    });
  });
}

/**
 * Level 2 drops the content of the weights. They are loaded before the key-value cache wakes, which leaves the most device memory
 * for the reload.
 */
async function wakeAndReload(demo: Demo): Promise<void> {
  await wake(demo, ["weights", "buffers"]);
  await demo.model.reloadWeights();
  await wake(demo, ["kv_cache"]);
}

async function measureMs(body: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await body();
  return Math.round((performance.now() - start) * 1000) / 1000;
}

function formatDuration(durationMs: number): string {
  return `${durationMs.toFixed(2)} ms`;
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof UsageError) {
    console.error(`${error.message}\nRun with --help for all options.`);
    process.exitCode = 2;
  } else if (error instanceof CamemError) {
    console.error(error.message);
    process.exitCode = 1;
  } else {
    throw error;
  }
}
