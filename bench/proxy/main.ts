/**
 * Measures answers through `camem run --listen` against direct ones: 32 clients, streams of 20 tokens, one after 5 ms each. Direct
 * and proxied rounds take turns, and the medians of the rounds are printed.
 */

import { join } from "node:path";

const clients = 32;
const answersPerRound = 320;
const rounds = 5;
const tokenMs = 5;
const body = JSON.stringify({ prompt: "once", stream: true });

function freePort(): number {
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const { port = 0 } = server;
  server.stop(true);
  return port;
}

const quantile = (sorted: readonly number[], part: number) =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;

const median = (values: readonly number[]) =>
  quantile(
    values.toSorted((a, b) => a - b),
    0.5,
  );

/** The durations of all answers, sorted. */
async function measure(url: string): Promise<number[]> {
  const durations: number[] = [];
  let left = answersPerRound;
  const client = async () => {
    while (left-- > 0) {
      const begun = performance.now();
      const response = await fetch(url, { method: "POST", body });
      const text = await response.text();
      if (!text.endsWith("data: [DONE]\n\n")) throw new Error(`an answer was ${response.status}: ${text}`);
      durations.push(performance.now() - begun);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  return durations.toSorted((a, b) => a - b);
}

const [port, enginePort] = [freePort(), freePort()];
const direct = `http://127.0.0.1:${enginePort}/v1/completions`;
const proxied = `http://127.0.0.1:${port}/v1/completions`;
const options = ["--listen", `127.0.0.1:${port}`, "--upstream", `http://127.0.0.1:${enginePort}`];
const engine = [process.execPath, join(import.meta.dir, "engine.ts"), String(enginePort), String(tokenMs)];
const run = Bun.spawn(
  [process.execPath, join(import.meta.dir, "../../src/cli/main.ts"), "run", ...options, "--", ...engine],
  { stdio: ["ignore", "ignore", "ignore"] },
);
try {
  while (!(await fetch(`http://127.0.0.1:${port}/health`).catch(() => undefined))?.ok) await Bun.sleep(20);
  await measure(direct);
  await measure(proxied);
  const figures = { direct: [] as number[][], proxied: [] as number[][] };
  for (let round = 0; round < rounds; round++) {
    figures.direct.push(await measure(direct));
    figures.proxied.push(await measure(proxied));
  }
  console.log("| answers | p50 | p99 |\n| --- | --- | --- |");
  const row = (name: string, all: readonly number[][]) => {
    const [p50, p99] = [0.5, 0.99].map((part) => median(all.map((one) => quantile(one, part))));
    console.log(`| ${name} | ${p50?.toFixed(1)} ms | ${p99?.toFixed(1)} ms |`);
    return p50 ?? Number.NaN;
  };
  const ratio = row("through the proxy", figures.proxied) / row("direct", figures.direct);
  console.log(`\np50 through the proxy: ${ratio.toFixed(2)} times the direct one`);
} finally {
  run.kill("SIGTERM");
  await run.exited;
}
