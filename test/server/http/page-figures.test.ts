/** What the page at `/camem` shows of memory and transitions, and which buttons have an effect. */

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Browser, chromium, type Locator, type Page } from "playwright-core";
import { MiB } from "../../support/device.ts";
import { which } from "../../support/runtime.ts";
import { PageFixture, soon } from "./page-fixture.ts";

const executablePath = which("chromium");
let fixture: PageFixture;

beforeEach(async () => {
  fixture = new PageFixture();
  await fixture.stop();
  fixture.serve({ loopbackOnly: true });
});

afterEach(() => fixture.close());

describe.skipIf(executablePath === null)("figures of the page", () => {
  let browser: Browser;
  let page: Page;

  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executablePath ?? "", args: ["--no-sandbox"] });
  });
  afterAll(() => browser.close());
  beforeEach(async () => {
    page = await browser.newPage();
    page.setDefaultTimeout(20_000);
    await page.goto(`http://127.0.0.1:${fixture.server.port}/camem`);
    await alpha().waitFor();
  });
  afterEach(() => page.close());

  const alpha = () => page.getByRole("article", { name: "alpha" });
  const shown = (locator: Locator, text: string | RegExp) =>
    locator.filter({ hasText: text }).first().waitFor();
  const button = (name: string) => page.getByRole("button", { name: `${name}: alpha` });

  test("page sums up device memory, page-locked host memory and models awake", async () => {
    const { freeBytes, totalBytes } = fixture.allocator.memGetInfo();
    const gibibytes = (bytes: number) => `${Number((bytes / 2 ** 30).toFixed(1))} GiB`;
    await shown(page.locator("#device-memory"), / of /);
    const [used = "", total] = (await page.locator("#device-memory").textContent())?.split(" of ") ?? [];
    expect(total).toBe(gibibytes(totalBytes));
    expect(Number.parseFloat(used)).toBeCloseTo((totalBytes - freeBytes) / MiB, 0);
    await shown(page.locator("#host-memory"), /^0 B$/);
    await shown(page.locator("#models-awake"), /^2 of 2$/);
    await button("Sleep, level 1").click();
    await shown(page.locator("#models-awake"), /^1 of 2$/);
    await shown(page.locator("#host-memory"), /^4 MiB$/);
    expect(fixture.allocator.hostUsage().pageLockedBytes).toBe(4 * MiB);
  });

  test("page has legends for what exists only, in plain words", async () => {
    const legend = (tag: string) =>
      alpha().locator(".tag").filter({ hasText: tag }).locator("dl > div:visible").allTextContents();
    await soon(async () => expect(await legend("weights")).toEqual(["on the device4 MiB"]));
    await fixture.alpha.sleep();
    await soon(async () => expect(await legend("weights")).toEqual(["in host memory4 MiB"]));
    await soon(async () => expect(await legend("kv_cache")).toEqual(["discarded6 MiB"]));
  });

  test("page draws a visible bar for memory that is small beside the rest", async () => {
    const used = page.locator("#devices .part.used");
    // A few MiB of 64 GiB are less than a hundredth of a pixel.
    await soon(async () => expect((await used.boundingBox())?.width).toBeGreaterThanOrEqual(4));
    const bar = alpha().locator(".bar").first();
    await soon(async () => {
      const parts = await bar.locator(".part").evaluateAll((all) => all.map((part) => part.clientWidth));
      expect(parts.filter((width) => width > 0)).toHaveLength(1);
    });
  });

  test("page disables buttons that would change nothing", async () => {
    const expectDisabled = (...expected: string[]) =>
      soon(async () =>
        expect([
          await button("Sleep, level 1").getAttribute("aria-disabled"),
          await button("Sleep, level 2").getAttribute("aria-disabled"),
          await button("Wake up").getAttribute("aria-disabled"),
        ]).toEqual(expected),
      );
    await expectDisabled("false", "false", "true");
    await fixture.alpha.sleep({ level: 1 });
    await expectDisabled("true", "false", "false");
    await fixture.alpha.wakeUp({ tags: ["weights"] });
    await expectDisabled("false", "false", "false");
    await fixture.alpha.sleep({ level: 2 });
    await expectDisabled("true", "true", "false");
    const sent: string[] = [];
    page.on("request", (request) => sent.push(request.method()));
    await button("Sleep, level 2").dispatchEvent("click");
    await sleep(50);
    expect(sent).not.toContain("POST");
  });

  test("page bounds the list of sleeps and wake-ups, and scrolls it by keyboard", async () => {
    for (let cycle = 0; cycle < 12; cycle++) {
      await fixture.alpha.sleep({ level: 0 });
      await fixture.alpha.wakeUp();
    }
    const list = page.getByRole("list", { name: "Sleeps and wake-ups" });
    await list.locator("li").nth(20).waitFor();
    expect((await list.boundingBox())?.height).toBeLessThanOrEqual(330);
    // Browsers let the keyboard reach a list that scrolls; it follows the last button.
    await page.getByRole("button").last().focus();
    await page.keyboard.press("Tab");
    await page.keyboard.press("End");
    await page.waitForFunction(() => (document.getElementById("transitions")?.scrollTop ?? 0) > 0);
  });
});
