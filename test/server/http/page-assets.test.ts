/** The responses that make up the page at `/camem`, and the data behind it. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { PageFixture, token } from "./page-fixture.ts";

const scripts = ["page", "client", "dom", "format", "memory-views", "model-view"].map(
  (name) => `/camem/${name}.js`,
);

let fixture: PageFixture;

beforeEach(() => {
  fixture = new PageFixture();
});

afterEach(() => fixture.close());

describe("responses of the page", () => {
  test("/camem answers without a token, and its data only with one", async () => {
    for (const [path, type] of [
      ["/camem", "text/html"],
      ["/camem/page.css", "text/css"],
      ...scripts.map((path) => [path, "text/javascript"] as const),
    ] as const) {
      const response = await fetch(new URL(path, fixture.server.url));
      expect([path, response.status]).toEqual([path, 200]);
      expect(response.headers.get("content-type")).toBe(`${type}; charset=utf-8`);
      expect(response.headers.get("content-security-policy")).toContain(
        "default-src 'none'; script-src 'self'",
      );
      expect(response.headers.get("x-content-type-options")).toBe("nosniff");
      expect(await response.text()).not.toContain("alpha");
      expect((await fetch(new URL(path, fixture.server.url), { method: "POST" })).status).toBe(405);
    }
    for (const path of ["/camem/usage", "/camem/transitions", "/camem/events"])
      expect((await fetch(new URL(path, fixture.server.url))).status).toBe(401);
  });

  test("/camem answers 403 to other hosts with loopbackOnly", async () => {
    for (const options of [{ loopbackOnly: true }, { loopbackOnly: true, token }]) {
      await fixture.stop();
      fixture.serve(options);
      expect((await fetch(new URL("/camem", fixture.server.url))).status).toBe(200);
      const headers = { host: "camem.example" };
      expect((await fetch(new URL("/camem", fixture.server.url), { headers })).status).toBe(403);
      expect((await fetch(new URL("/camem/page.js", fixture.server.url), { headers })).status).toBe(403);
    }
  });

  test("/camem contains no inline script, inline style or external address", async () => {
    const html = await (await fetch(new URL("/camem", fixture.server.url))).text();
    expect(html).not.toMatch(/<script(?![^>]* src="camem\/page\.js")|<style| style=| on\w+=/);
    for (const path of ["/camem", "/camem/page.css", ...scripts])
      expect(await (await fetch(new URL(path, fixture.server.url))).text()).not.toMatch(/https?:\/\/|url\(/);
  });

  test("/camem/transitions returns running transitions and the last 50", async () => {
    // biome-ignore lint/suspicious/noExplicitAny: what is expected of it is below
    const transitions = async (): Promise<any> =>
      (
        await fetch(new URL("/camem/transitions", fixture.server.url), {
          headers: { authorization: `Bearer ${token}` },
        })
      ).json();
    for (let count = 0; count < 26; count++) {
      await fixture.alpha.sleep({ level: 0 });
      await fixture.alpha.wakeUp();
    }
    const { running, ended } = await transitions();
    expect([running, ended.length, ended[0].id]).toEqual([[], 50, 52]);
    const release = fixture.hold();
    const sleeping = fixture.beta.sleep();
    expect((await transitions()).running).toMatchObject([
      { engine: fixture.beta.name, operation: "sleep", level: 1 },
    ]);
    release();
    await sleeping;
    expect((await transitions()).running).toEqual([]);
  });
});
