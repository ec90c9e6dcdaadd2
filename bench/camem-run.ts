/** Starts an engine behind `camem run --listen` and waits until it answers. */

import { join } from "node:path";

const cli = join(import.meta.dir, "../src/cli/main.ts");

export function freePort(): number {
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const { port = 0 } = server;
  server.stop(true);
  return port;
}

/** The answer's text. */
export async function post(url: string, body?: object): Promise<string> {
  const init = { method: "POST", ...(body !== undefined && { body: JSON.stringify(body) }) };
  const response = await fetch(url, init);
  const text = await response.text();
  if (!response.ok) throw new Error(`${url} was answered with ${response.status}: ${text}`);
  return text;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** A running program that serves HTTP. */
export class ServingProgram implements AsyncDisposable {
  readonly #process: Bun.Subprocess<"ignore", "ignore", "ignore">;
  readonly #url: string;

  constructor(command: readonly string[], port: number, environment: Environment) {
    const env = { ...process.env, ...environment };
    this.#process = Bun.spawn([...command], { env, stdio: ["ignore", "ignore", "ignore"] });
    this.#url = `http://127.0.0.1:${port}`;
  }

  async untilHealthy(): Promise<void> {
    while (!(await fetch(`${this.#url}/health`).catch(() => undefined))?.ok) {
      if (this.#process.exitCode !== null)
        throw new Error(`the program at ${this.#url} ended with ${this.#process.exitCode}`);
      await Bun.sleep(2);
    }
  }

  /** Waits until `camem run` has found the memory of the engine, which it looks for once the engine has allocated some. */
  async untilItCanSleep(): Promise<void> {
    while (!(await fetch(`${this.#url}/sleep?level=1&mode=keep`, { method: "POST" })).ok) await Bun.sleep(2);
    await this.post("/wake_up");
  }

  post(path: string, body?: object): Promise<string> {
    return post(`${this.#url}${path}`, body);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGTERM");
    await this.#process.exited;
  }
}

/** The same engine behind the proxy of `camem run`. */
export function runBehindProxy(
  engine: readonly string[],
  enginePort: number,
  environment: Environment,
): ServingProgram {
  const port = freePort();
  const addresses = ["--listen", `127.0.0.1:${port}`, "--upstream", `http://127.0.0.1:${enginePort}`];
  const options = [...addresses, "--ready-path", "/health", "--name", "benchmark"];
  return new ServingProgram([process.execPath, cli, "run", ...options, "--", ...engine], port, environment);
}
