/** The page at `/camem` for an engine in another process, in Debian's Chromium. */

import { beforeAll, expect, test } from "bun:test";
import { RemoteAllocator } from "camem";
import { createHandler, SleepController } from "camem/server";
import { chromium } from "playwright-core";
import { buildControlProgram, startControlProgram } from "../support/control-program.ts";
import { MiB } from "../support/device.ts";

const executablePath = Bun.which("chromium") ?? undefined;
const buildTimeoutMs = 300_000;

beforeAll(buildControlProgram, buildTimeoutMs);

test.skipIf(executablePath === undefined)(
  "page shows, sleeps and wakes an engine in another process",
  async () => {
    await using program = await startControlProgram(["default=40"]);
    await using allocator = await RemoteAllocator.connect({ path: program.path });
    await using controller = new SleepController(allocator, { name: "far" });
    const handler = createHandler({ engine: controller, loopbackOnly: true });
    await using server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: (request, own) => handler(request, own) ?? new Response(null, { status: 404 }),
    });
    await using browser = await chromium.launch({
      executablePath: executablePath ?? "",
      args: ["--no-sandbox"],
    });
    const page = await browser.newPage();
    page.setDefaultTimeout(20_000);
    const problems: string[] = [];
    page.on("pageerror", (error) => problems.push(String(error)));
    await page.goto(new URL("/camem", server.url).href);
    const model = page.getByRole("article", { name: "far" });
    const shows = (selector: string, text: string | RegExp) =>
      model.locator(selector).filter({ hasText: text }).first().waitFor();
    const bytes = (kind: string, count: number) =>
      model.locator(`.tag data[data-kind="${kind}"][value="${count}"]`).waitFor({ state: "attached" });

    await shows(".state", /^awake$/);
    await bytes("mapped", 40 * MiB);
    await page.getByRole("button", { name: "Sleep, level 1: far" }).click();
    await shows(".state", /^asleep$/);
    await bytes("mapped", 0);
    await bytes("host", 40 * MiB);
    expect(allocator.isSleeping).toBe(true);
    await page.getByRole("button", { name: "Wake up: far" }).click();
    await shows(".state", /^awake$/);
    await bytes("mapped", 40 * MiB);
    expect(await program.tell("verify")).toBe("equal");
    expect(problems).toEqual([]);
  },
);
