/** The server of docs/deploy.md, in a process of its own, and the blocks of that page. */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { EngineStatus } from "camem/server";

const root = join(import.meta.dir, "../../..");
export const page = readFileSync(join(root, "docs/deploy.md"), "utf8");
export const key = "a-secret";

const programs = [...page.matchAll(/```ts\n(.*?)```/gs)].map(([, text = ""]) => text);

/** The engine of the page, which stands in for the reader's. */
export const standIn = programs[1] ?? "";

/** The reader's own part: an engine whose text is correct only if its weights are. */
const engineCode = `
import type { CaMemAllocator, DeviceBuffer } from "camem";
let weights: DeviceBuffer | undefined;
export async function load(allocator: CaMemAllocator, checkpoint: string): Promise<void> {
  if (checkpoint !== "qwen") throw new Error("there is no checkpoint " + checkpoint);
  weights ??= allocator.malloc(3_000_000, { tag: "weights" });
  weights.fill(7);
}
export function resetPrefixCache(): void {}
export async function complete(_lease: unknown, prompt: string): Promise<string> {
  // Longer than the grace period of the server.
  if (prompt === "slow") await new Promise<void>((resolve) => process.once("SIGTERM", () => setTimeout(resolve)));
  return prompt + " " + weights?.read(2_999_999, 1)[0];
}`;

interface EngineUsage {
  readonly status: EngineStatus;
  readonly tags: { readonly weights: object };
}

export const asleep = { mappedBytes: 0, hostBytes: 4 * 2 ** 20, state: "asleep" };
export const dropped = { mappedBytes: 0, hostBytes: 0, discardedBytes: 4 * 2 ** 20, state: "asleep" };

/** One server at a time. */
export class DeployedServer {
  readonly #folder = mkdtempSync(join(tmpdir(), "camem-deploy-"));
  #child: Bun.Subprocess<"ignore", "pipe", "inherit"> | undefined;

  constructor() {
    mkdirSync(join(this.#folder, "node_modules"));
    symlinkSync(root, join(this.#folder, "node_modules/camem"));
  }

  /** Starts the server and returns its ports. Port 0 takes a free port. */
  async start(env: Record<string, string>, engine = engineCode): Promise<number[]> {
    const [server = ""] = programs;
    await Bun.write(join(this.#folder, "server.ts"), server);
    await Bun.write(join(this.#folder, "engine.ts"), engine);
    this.#child = Bun.spawn([process.execPath, "server.ts"], {
      cwd: this.#folder,
      env: { ...process.env, PORT: "0", ...env },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let output = "";
    for await (const chunk of this.#child.stdout) {
      output += new TextDecoder().decode(chunk);
      if (output.includes("\n")) break;
    }
    return JSON.parse(output).ports;
  }

  /** Ends the server with SIGTERM and returns its exit status. */
  async end(): Promise<number> {
    this.#child?.kill("SIGTERM");
    const status = (await this.#child?.exited) ?? 0;
    this.#child = undefined;
    return status;
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true });
  }
}

export async function usageOf(port: number): Promise<EngineUsage> {
  const headers = { authorization: `Bearer ${key}` };
  const usage = (await (await fetch(`http://127.0.0.1:${port}/camem/usage`, { headers })).json()) as {
    engines: { qwen: EngineUsage };
  };
  return usage.engines.qwen;
}

/** Waits until the engine has fallen asleep by itself. */
export async function untilIdle(port: number): Promise<void> {
  while (true) {
    const { state, reason } = (await usageOf(port)).status;
    if (state === "asleep" && reason === "idle") return;
    await Bun.sleep(2);
  }
}

// biome-ignore lint/suspicious/noExplicitAny: manifests are as deep as their authors want them
export type Manifest = any;

/** The YAML blocks of the page under one heading, document by document. */
export function manifestsOf(heading: string): Manifest[] {
  const section = page.split(/^## /m).find((text) => text.startsWith(heading)) ?? "";
  const blocks = [...section.matchAll(/```yaml\n(.*?)```/gs)];
  return blocks.flatMap((block) => Bun.YAML.parse(block[1] ?? "") as Manifest);
}

export const ofKind = (manifests: readonly Manifest[], kind: string): Manifest =>
  manifests.find((manifest) => manifest.kind === kind);

export const environmentOf = (container: Manifest) =>
  Object.fromEntries(
    container.env.flatMap(({ name, value }: Manifest) => (value === undefined ? [] : [[name, value]])),
  );
