/** The real Chromium must not change an engine by itself: speculation rules, and addresses that redirect. */

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import type { EngineEvent } from "camem/server";
import { type Browser, chromium } from "playwright-core";
import { until } from "../../support/fake-engine.ts";
import { serve, type TestListener, which } from "../../support/runtime.ts";
import { HandlerFixture } from "./handler-fixture.ts";

const executablePath = which("chromium");
if (executablePath === null)
  console.log(
    "SKIPPED: the rule for browsers is not tested with one, as there is no chromium (apt-get install chromium)",
  );

describe.skipIf(executablePath === null)("Chromium", () => {
  let browser: Browser;
  let fixture: HandlerFixture;
  let site: TestListener;
  /** What the engine's server received: method, path and purpose. */
  let seen: string[];
  /** Every event of the engine: each change has one. */
  let events: EngineEvent[];
  /** Answers of the site, which is the same origin as the engine: the hardest case. */
  let pages: Record<string, (request: Request) => Response>;

  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executablePath ?? "", args: ["--no-sandbox"] });
  });
  afterAll(() => browser.close());

  beforeEach(() => {
    fixture = new HandlerFixture();
    seen = [];
    events = [];
    fixture.controller.subscribe((event) => events.push(event));
    pages = {};
    site = serve((request, server) => {
      const { pathname } = new URL(request.url);
      const { headers } = request;
      const purpose = headers.get("sec-purpose") ?? headers.get("sec-fetch-site");
      seen.push(`${request.method} ${pathname} ${purpose}`);
      return (
        pages[pathname]?.(request) ??
        fixture.server.handler(request, server) ??
        new Response(null, { status: 404 })
      );
    });
  });
  afterEach(async () => {
    await site.stop();
    const changesSeen = [...events]; // closing is an event of its own
    await fixture.close();
    expect(changesSeen).toEqual([]);
  });

  const url = (path: string) => new URL(path, site.url).href;
  const html = (text: string) => () =>
    new Response(`<!doctype html><title>page</title>${text}`, { headers: { "content-type": "text/html" } });
  const changes = ["/release_memory_occupation", "/resume_memory_occupation", "/flush_cache"];

  test.each(["prefetch", "prerender"] as const)("%s by speculation rules changes nothing", async (action) => {
    const rules = { [action]: [{ source: "list", urls: changes, eagerness: "immediate" }] };
    pages["/page"] = html(`<script type="speculationrules">${JSON.stringify(rules)}</script>`);
    const page = await browser.newPage();
    await page.goto(url("/page"));
    await until(() => changes.every((path) => seen.some((one) => one.startsWith(`GET ${path} prefetch`))));
    await page.close();
  });

  test("typed address that redirects changes nothing", async () => {
    for (const path of changes) {
      pages["/page"] = () => Response.redirect(url(path));
      const page = await browser.newPage();
      const response = await page.goto(url("/page"));
      expect([path, response?.status()]).toEqual([path, 403]);
      await page.close();
    }
    expect(seen).toContain("GET /release_memory_occupation none");
  });

  test("form, image and link of the server's own origin change nothing by GET", async () => {
    pages["/page"] = html(
      '<img src="/release_memory_occupation"><a href="/release_memory_occupation">go</a>',
    );
    const page = await browser.newPage();
    await page.goto(url("/page"));
    await page.getByText("go").click();
    await until(() => seen.filter((one) => one.startsWith("GET /release")).length === 2);
    await page.close();
  });

  test("form of another origin changes nothing by POST, nor after a redirect", async () => {
    await using other = serve(
      ({ url: sent }) =>
        new URL(sent).pathname === "/redirect"
          ? new Response(null, { status: 307, headers: { location: url("/sleep") } })
          : html(
              `<form method="post" action="${new URL(sent).search.slice(1)}"><button>go</button></form>`,
            )(),
      { hostname: "localhost" },
    );
    for (const action of [url("/sleep"), "/redirect"]) {
      const page = await browser.newPage();
      await page.goto(`${other.url.origin}/?${action}`);
      const answered = page.waitForResponse(url("/sleep"));
      await page.getByText("go").click();
      expect([action, (await answered).status()]).toEqual([action, 403]);
      await page.close();
    }
  });
});
