/** The page at `/camem` in a browser: Debian's Chromium, headless. */

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import type { EngineListener } from "camem/server";
import { type Browser, chromium, type Locator, type Page } from "playwright-core";
import { MiB, onEmulator, setFaults } from "../../support/device.ts";
import { which } from "../../support/runtime.ts";
import { markup, PageFixture, soon, token } from "./page-fixture.ts";

const executablePath = which("chromium");
if (executablePath === null)
  console.log(
    "SKIPPED: the page is not tested in a browser, as there is no chromium (apt-get install chromium)",
  );

let fixture: PageFixture;

beforeEach(() => {
  fixture = new PageFixture();
});

afterEach(() => fixture.close());

describe.skipIf(executablePath === null)("page in a browser", () => {
  let browser: Browser;
  let page: Page;
  let problems: string[];
  const origin = () => `http://127.0.0.1:${fixture.server.port}`;

  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executablePath ?? "", args: ["--no-sandbox"] });
  });
  afterAll(() => browser.close());

  beforeEach(async () => {
    page = await browser.newPage();
    page.setDefaultTimeout(20_000);
    problems = [];
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) problems.push(message.text());
    });
    page.on("pageerror", (error) => problems.push(String(error)));
  });
  afterEach(() => page.close());

  const model = (name: string) => page.getByRole("article", { name });
  const shown = (locator: Locator, text: string | RegExp) =>
    locator.filter({ hasText: text }).first().waitFor();
  const press = (name: string | RegExp) => page.getByRole("button", { name }).click();
  const connected = () => shown(page.locator("#connection"), /^Connected$/);

  async function open(path = "/camem"): Promise<void> {
    await page.goto(`${origin()}${path}`);
    await page.getByLabel("Token").fill(token);
    await press("Use this token");
    await connected();
  }

  /** The bytes that the page shows for a tag of a model, by kind. */
  async function bytesOf(name: string, tag: string): Promise<Record<string, number>> {
    const entry = model(name).locator(".tag").filter({ hasText: tag });
    const pairs = await entry
      .locator("data")
      .evaluateAll((all) =>
        all.map((one) => [one.getAttribute("data-kind"), Number(one.getAttribute("value"))]),
      );
    return Object.fromEntries(pairs);
  }

  const expectedOf = (tag: string) => {
    const usage: Record<string, unknown> = { ...fixture.allocator.usage()[tag] };
    const sizes = Object.entries(usage).filter(([name]) => name.endsWith("Bytes"));
    return Object.fromEntries(sizes.map(([name, bytes]) => [name.replace("Bytes", ""), Number(bytes)]));
  };

  test("page shows bytes before and after a sleep, and the running transition", async () => {
    await open();
    await soon(async () => expect(await bytesOf("alpha", "weights")).toEqual(expectedOf("alpha/weights")));
    await soon(async () =>
      expect(await bytesOf("alpha", "weights")).toMatchObject({ mapped: 4 * MiB, host: 0, discarded: 0 }),
    );
    await soon(async () => expect(await bytesOf("alpha", "kv_cache")).toMatchObject({ mapped: 6 * MiB }));
    const used = async () =>
      Number(await page.locator('#devices data[data-kind="used"]').getAttribute("value"));
    const { freeBytes, totalBytes } = fixture.allocator.memGetInfo();
    await soon(async () => expect(await used()).toBe(totalBytes - freeBytes));

    const release = fixture.hold();
    await press("Sleep, level 1: alpha");
    await shown(model("alpha").locator(".running"), "sleep at level 1: waiting");
    await shown(model("alpha").locator(".state"), /^falling asleep$/);
    expect(await model("alpha").getByRole("progressbar", { name: "sleep at level 1" }).isVisible()).toBe(
      true,
    );
    expect(
      await page.getByRole("button", { name: "Sleep, level 1: alpha" }).getAttribute("aria-disabled"),
    ).toBe("true");
    release();

    await shown(model("alpha").locator(".state"), /^asleep$/);
    await shown(
      page.locator("#transitions li"),
      /alpha: sleep at level 1, by an operator\s*done, [\d.]+ m?s/,
    );
    await shown(model("alpha").locator(".tag"), "asleep");
    await soon(async () => expect(await model("alpha").getByRole("progressbar").count()).toBe(0));
    await soon(async () => expect(await bytesOf("alpha", "weights")).toEqual(expectedOf("alpha/weights")));
    await soon(async () =>
      expect(await bytesOf("alpha", "weights")).toMatchObject({ mapped: 0, host: 4 * MiB, discarded: 0 }),
    );
    await soon(async () =>
      expect(await bytesOf("alpha", "kv_cache")).toMatchObject({ mapped: 0, host: 0, discarded: 6 * MiB }),
    );
    await soon(async () => expect(await bytesOf("beta", "weights")).toMatchObject({ mapped: 4 * MiB }));
    await soon(async () => expect(await used()).toBe(totalBytes - fixture.allocator.memGetInfo().freeBytes));
    const meter = model("alpha").getByRole("meter", { name: "weights" });
    await soon(async () =>
      expect(await meter.getAttribute("aria-valuetext")).toContain("4 MiB in host memory"),
    );

    await press("Wake up: alpha");
    await shown(model("alpha").locator(".state"), /^awake$/);
    await shown(page.locator("#transitions li"), "alpha: wake-up, by an operator");
    await soon(async () => expect(await page.locator("#transitions li").count()).toBe(2));
    await shown(model("alpha").locator(".tag"), "awake");
    await soon(async () =>
      expect(await bytesOf("alpha", "weights")).toMatchObject({ mapped: 4 * MiB, host: 0 }),
    );
    expect(problems).toEqual([]);
  });

  test("page shows which weights to load after level 2", async () => {
    await open();
    await press("Sleep, level 2: alpha");
    await shown(model("alpha").locator(".details"), /at level 2, by an operator\. Asleep: weights, kv_cache/);
    await shown(model("alpha").locator(".tag"), "asleep");
    await soon(async () =>
      expect(await bytesOf("alpha", "weights")).toMatchObject({ mapped: 0, host: 0, discarded: 4 * MiB }),
    );
    await press("Wake up: alpha");
    await shown(model("alpha").locator(".state"), /^awaiting weights$/);
    await shown(model("alpha").locator(".details"), "Weights to load: weights");
    expect(problems).toEqual([]);
  });

  test("page shows transitions of other clients, also earlier ones", async () => {
    await fixture.alpha.sleep({ level: 0, reason: "idle" });
    await open();
    await shown(page.locator("#transitions li"), "alpha: sleep at level 0, by idleness");
    await fixture.alpha.wakeUp();
    await shown(page.locator("#transitions li"), "alpha: wake-up");
    await shown(page.locator("#announcement"), /^alpha: wake-up: done after/);
    const lease = await fixture.alpha.admit();
    await shown(model("alpha").locator(".details"), "Requests: 1 running");
    lease.release();
    await shown(model("alpha").locator(".details"), "No requests");
    expect(problems).toEqual([]);
  });

  test.if(onEmulator)("page shows a failure as an alert and in the list of transitions", async () => {
    await open();
    setFaults("aclrtMemcpyAsync:1=507899");
    await press("Sleep, level 1: alpha");
    await shown(page.getByRole("alert"), /^Sleep, level 1: alpha: .*aclrtMemcpyAsync/);
    setFaults("");
    await shown(page.locator("#transitions li"), /failed, [\d.]+ m?s/);
    await shown(page.locator("#transitions .what"), "aclrtMemcpyAsync");
    await shown(model("alpha").locator(".state"), /^awake$/);
    await press("Sleep, level 1: alpha");
    await shown(model("alpha").locator(".state"), /^asleep$/);
    await soon(async () => expect(await page.getByRole("alert").textContent()).toBe(""));
  });

  test("page sleeps with the chosen mode for requests in flight", async () => {
    await open();
    const lease = await fixture.alpha.admit();
    await press("Sleep, level 1: alpha");
    await shown(model("alpha").locator(".state"), /^falling asleep$/);
    expect(lease.signal.aborted).toBe(false);
    lease.release();
    await shown(model("alpha").locator(".state"), /^asleep$/);
    await press("Wake up: alpha");
    await shown(model("alpha").locator(".state"), /^awake$/);
    const other = await fixture.alpha.admit();
    other.signal.addEventListener("abort", () => other.release());
    await page.getByLabel("When a model with running requests goes to sleep").selectOption("abort");
    await press("Sleep, level 1: alpha");
    await shown(model("alpha").locator(".state"), /^asleep$/);
    expect(other.signal.aborted).toBe(true);
  });

  test("page shows no data when the token is wrong", async () => {
    await page.goto(`${origin()}/camem`);
    await page.getByLabel("Token").fill("a-guess");
    await press("Use this token");
    await shown(page.getByRole("alert"), "The server refused this token");
    expect(await page.locator("#data").isVisible()).toBe(false);
    expect(await page.locator("body").textContent()).not.toContain("alpha");
    expect(await page.evaluate(() => sessionStorage.length)).toBe(0);
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("token");
    await page.getByLabel("Token").fill(token);
    await press("Use this token");
    await connected();
    await soon(async () => expect(await page.getByRole("alert").textContent()).toBe(""));
    // The token lasts as long as the tab; forgetting it also removes all data.
    await page.reload();
    await connected();
    await model("alpha").waitFor();
    await press("Forget the token");
    await page.getByLabel("Token").waitFor();
    expect(await page.locator("body").textContent()).not.toContain("alpha");
    expect(await page.evaluate(() => sessionStorage.length)).toBe(0);
  });

  test("page asks for no token when the server has none", async () => {
    await fixture.stop();
    fixture.serve({ loopbackOnly: true });
    await page.goto(`${origin()}/camem`);
    await connected();
    await model("alpha").waitFor();
    expect(await page.getByLabel("Token").isVisible()).toBe(false);
    await press("Sleep, level 1: alpha");
    await shown(model("alpha").locator(".state"), /^asleep$/);
    expect(problems).toEqual([]);
  });

  test("page keeps the focus when used by keyboard", async () => {
    await page.goto(`${origin()}/camem`);
    await page.getByLabel("Token").waitFor();
    await page.keyboard.type(token);
    await page.keyboard.press("Enter");
    await connected();
    await model("alpha").waitFor();
    const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label"));
    const reached: (string | null | undefined)[] = [];
    while ((await focused()) !== "Sleep, level 1: alpha") {
      expect(reached.length).toBeLessThan(10);
      await page.keyboard.press("Tab");
      reached.push(await focused());
    }
    const outline = () =>
      page.evaluate(() => getComputedStyle(document.activeElement ?? document.body).outlineStyle);
    expect(await outline()).toBe("solid");
    await page.keyboard.press("Enter");
    await shown(model("alpha").locator(".state"), /^asleep$/);
    expect(await focused()).toBe("Sleep, level 1: alpha");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    expect(await focused()).toBe("Wake up: alpha");
    await page.keyboard.press("Space");
    await shown(model("alpha").locator(".state"), /^awake$/);
    expect(await focused()).toBe("Wake up: alpha");
    expect(problems).toEqual([]);
  });

  test("page has the roles and names that a screen reader needs", async () => {
    await fixture.alpha.sleep();
    await open();
    const snapshot = await page.locator("body").ariaSnapshot();
    for (const line of [
      '- heading "camem device memory" [level=1]',
      "- status: Connected",
      "- main:",
      '- region "Devices":',
      '- heading "Device 0" [level=3]',
      '- meter "Device 0"',
      '- region "Models":',
      '- combobox "When a model with running requests goes to sleep:"',
      '- article "alpha":',
      '- heading "alpha" [level=3]',
      '- meter "weights"',
      'button "Sleep, level 1: alpha"',
      'button "Sleep, level 2: alpha"',
      'button "Wake up: alpha"',
      '- region "Sleeps and wake-ups":',
      '- list "Sleeps and wake-ups":',
      "- time:",
    ])
      expect(snapshot).toContain(line);
  });

  test("page shows names with HTML as text", async () => {
    await open();
    await fixture.beta.sleep();
    await shown(page.locator("#transitions .what"), `${fixture.beta.name}: sleep at level 1`);
    await shown(page.locator(".tag"), markup);
    await page.getByRole("button", { name: `Wake up: ${fixture.beta.name}` }).click();
    await shown(page.locator("#transitions .what"), `${fixture.beta.name}: wake-up`);
    expect(await page.locator("h3", { hasText: "beta" }).textContent()).toBe(fixture.beta.name);
    expect(await page.locator("img").count()).toBe(0);
    expect(await page.evaluate(() => "hacked" in window)).toBe(false);
    expect(problems).toEqual([]);
  });

  test("page shows copied bytes of a running transition", async () => {
    let emit: EngineListener = () => undefined;
    const engines = new Map([[fixture.alpha.name, fixture.alpha]]);
    const subscribe = (listener: EngineListener) => {
      emit = listener;
      return () => undefined;
    };
    await fixture.stop();
    const queueOf = () => ({ waiting: 0, refusedTotal: 0 });
    fixture.serve({
      token,
      engine: {
        engines,
        subscribe,
        abortRequests: () => 0,
        queueOf,
        admit: () => fixture.alpha.admit(),
        wakeUp: () => fixture.alpha.wakeUp(),
      },
    });
    await open();
    const base = { engine: "alpha", atMs: Date.now(), id: 7, operation: "sleep", level: 1 } as const;
    const identity = { ...base, tags: ["weights"], reason: "idle" } as const;
    const progressOf = (phase: "copying", bytesDone: number) =>
      emit({
        ...identity,
        type: "transition-progress",
        progress: { phase, bytesDone, bytesTotal: 4 * MiB },
      });
    emit({ ...identity, type: "transition-started" });
    const running = model("alpha").locator(".running");
    await shown(running, "sleep at level 1, only weights: starting");
    progressOf("copying", MiB);
    await shown(running, "copying, 1 MiB of 4 MiB copied");
    progressOf("copying", 3 * MiB);
    await shown(running, "copying, 3 MiB of 4 MiB copied");
    const bar = running.getByRole("progressbar");
    expect([await bar.getAttribute("value"), await bar.getAttribute("max")]).toEqual([
      String(3 * MiB),
      String(4 * MiB),
    ]);
    const ended = { durationMs: 1234, outcome: "done", report: null, failure: null } as const;
    emit({ ...identity, ...ended, type: "transition-ended" });
    await shown(
      page.locator("#transitions li"),
      /alpha: sleep at level 1, only weights, by idleness\s*done, 1.2 s/,
    );
    expect(await running.isVisible()).toBe(false);
    expect(problems).toEqual([]);
  });

  test("page works below another path", async () => {
    await fixture.stop();
    fixture.serve({ token }, 0, (request) => {
      const { pathname, search } = new URL(request.url);
      const path = pathname.startsWith("/admin/") ? pathname.slice("/admin".length) : "/outside";
      return new Request(new URL(path + search, request.url), request);
    });
    await open("/admin/camem");
    await press("Sleep, level 1: alpha");
    await shown(model("alpha").locator(".state"), /^asleep$/);
    expect(problems).toEqual([]);
  });

  test("page does not send a malformed token", async () => {
    await page.goto(`${origin()}/camem`);
    await page.getByLabel("Token").fill("пароль");
    await press("Use this token");
    expect(await page.locator("#token:invalid").count()).toBe(1);
    expect(await page.evaluate(() => sessionStorage.length)).toBe(0);
    expect(problems).toEqual([]);
  });

  test("content security policy blocks other scripts", async () => {
    await open();
    const attempts = await page.evaluate(() => {
      const refusalOf = (attempt: () => unknown) => {
        try {
          return String(attempt());
        } catch (error) {
          return error instanceof Error ? error.name : String(error);
        }
      };
      const element = document.createElement("script");
      return [
        refusalOf(() => document.body.setAttribute("onclick", "window.hacked = true")),
        refusalOf(() => document.body.insertAdjacentHTML("beforeend", "<img src=x>")),
        refusalOf(() => element.setAttribute("src", "/elsewhere.js")),
        refusalOf(() => document.write("<p>")),
      ];
    });
    expect(attempts).toEqual(["TypeError", "TypeError", "TypeError", "TypeError"]);
    expect(await page.evaluate(() => "hacked" in window)).toBe(false);
  });

  test("page reconnects to a restarted server and keeps its transitions", async () => {
    await open();
    await fixture.alpha.sleep();
    await shown(page.locator("#transitions li"), "alpha: sleep at level 1");
    await shown(model("alpha").locator(".state"), /^asleep$/);
    const port = Number(fixture.server.port);
    await fixture.stop();
    await shown(page.locator("#connection"), "Disconnected");
    await fixture.alpha.wakeUp();
    fixture.serve({ token }, port);
    await connected();
    await shown(model("alpha").locator(".state"), /^awake$/);
    await shown(page.locator("#transitions li"), "alpha: sleep at level 1");
    await press("Sleep, level 2: alpha");
    await shown(page.locator("#transitions li"), "alpha: sleep at level 2");
  });

  test("page fits 320 pixels with readable contrast in light and dark", async () => {
    await page.setViewportSize({ width: 320, height: 640 });
    await open();
    await fixture.alpha.sleep();
    await fixture.beta.sleep({ level: 2 });
    await shown(page.locator("#transitions li"), "level 2");
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(320);
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      const { faint, background, texts } = await page.evaluate(readContrast);
      expect(texts).toBeGreaterThan(40);
      expect(faint).toEqual([]);
      const [red = 0] = background;
      expect(colorScheme === "dark" ? red < 64 : red > 192).toBe(true);
      const transitions = await page
        .locator(".part")
        .first()
        .evaluate((part) => getComputedStyle(part).transitionProperty);
      expect(transitions).toBe("all");
      expect((await page.screenshot({ fullPage: true })).length).toBeGreaterThan(10_000);
    }
    expect(problems).toEqual([]);
  });
});

/** Runs in the page. Finds text whose contrast with its background is below 4.5 to 1. */
function readContrast(): { faint: string[]; background: number[]; texts: number } {
  const channels = (color: string) => (color.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = ([red = 0, green = 0, blue = 0]: number[]) => {
    const linear = [red, green, blue].map((channel) => {
      const share = channel / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * (linear[0] ?? 0) + 0.7152 * (linear[1] ?? 0) + 0.0722 * (linear[2] ?? 0);
  };
  const backgroundOf = (element: Element | null): number[] => {
    if (element === null) return [255, 255, 255];
    const color = channels(getComputedStyle(element).backgroundColor);
    return color[3] === 0 ? backgroundOf(element.parentElement) : color;
  };
  const faint: string[] = [];
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
    const element = node.parentElement;
    if (element === null || node.textContent?.trim() === "" || !element.checkVisibility()) continue;
    texts++;
    const text = luminance(channels(getComputedStyle(element).color));
    const behind = luminance(backgroundOf(element));
    const contrast = (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
    if (contrast < 4.5) faint.push(`${node.textContent}: ${contrast.toFixed(2)}`);
  }
  return { faint, background: channels(getComputedStyle(document.documentElement).backgroundColor), texts };
}
