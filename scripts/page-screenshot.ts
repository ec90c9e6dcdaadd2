/** Draws docs/camem-page.png: two models on one small device, one of them asleep. Needs Chromium on PATH. */

import { join } from "node:path";
import { CaMemAllocator } from "camem";
import { createHandler, ModelPool, SleepController } from "camem/server";
import { chromium } from "playwright-core";
import { buildNative } from "./native.ts";

const MiB = 2 ** 20;
const path = join(import.meta.dir, "../docs/camem-page.png");

// The emulator reads the C environment, so the variable must be set before the process starts.
if (process.env["CAMEM_EMULATOR_HBM"] === undefined) {
  const env = { ...process.env, CAMEM_EMULATOR_HBM: "2GiB" };
  process.exit(
    Bun.spawnSync([process.execPath, import.meta.path], { env, stdio: ["inherit", "inherit", "inherit"] })
      .exitCode,
  );
}

await buildNative();
await using allocator = CaMemAllocator.getInstance({ backend: "emulator" });

function createEngine(name: string, sizes: Readonly<Record<string, number>>): SleepController {
  const tags = Object.fromEntries(Object.keys(sizes).map((tag) => [tag, `${name}/${tag}`]));
  const controller = new SleepController(allocator, { name, tags });
  for (const [tag, sizeBytes] of Object.entries(sizes))
    allocator.malloc(sizeBytes, { tag: tags[tag] }).fill(1);
  return controller;
}

const pool = new ModelPool([
  createEngine("qwen2.5-0.5b", { weights: 942 * MiB, kv_cache: 384 * MiB, buffers: 8 * MiB }),
  createEngine("smollm2-135m", { weights: 258 * MiB, kv_cache: 128 * MiB, buffers: 4 * MiB }),
]);
const handler = createHandler({ engine: pool, loopbackOnly: true });
using server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch: (request, self) => handler(request, self) ?? new Response(null, { status: 404 }),
});

const [qwen, smol] = [...pool.engines.values()];
await smol?.sleep({ level: 1, reason: "idle" });
await smol?.wakeUp({ reason: "pool" });
await smol?.sleep({ level: 2 });
await smol?.wakeUp();
await smol?.confirmWeights();
await qwen?.sleep({ level: 1, reason: "pool" });

const browser = await chromium.launch({
  executablePath: Bun.which("chromium") ?? "",
  args: ["--no-sandbox"],
});
const page = await browser.newPage({ viewport: { width: 860, height: 600 } });
await page.goto(`${server.url}camem`);
await page.locator("#transitions li").nth(4).waitFor();
await page.emulateMedia({ reducedMotion: "reduce" });
await page.screenshot({ path, fullPage: true });
await browser.close();
handler.close();
await pool.close();
for (const engine of pool.engines.values()) await engine.close();
