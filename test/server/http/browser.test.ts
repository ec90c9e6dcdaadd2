/** A browser on this machine must not change an engine for a page of another site, nor by itself. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { errorShape, HandlerFixture } from "./handler-fixture.ts";

let fixture: HandlerFixture;

beforeEach(() => {
  fixture = new HandlerFixture();
});

afterEach(() => fixture.close());

const changes = [
  ["GET", "/release_memory_occupation"],
  ["POST", "/release_memory_occupation"],
  ["GET", "/resume_memory_occupation"],
  ["POST", "/sleep?level=1"],
  ["POST", "/wake_up"],
  ["POST", "/pause"],
  ["POST", "/resume"],
  ["POST", "/camem/confirm_weights"],
  ["POST", "/collective_rpc"],
  ["POST", "/reset_prefix_cache"],
  ["POST", "/release_kv_cache_memory"],
  ["GET", "/flush_cache"],
  ["POST", "/flush_cache"],
  ["POST", "/pause_generation"],
  ["POST", "/continue_generation"],
  ["POST", "/update_weights_from_disk"],
  ["POST", "/abort_request"],
] as const;

const navigation = { "sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document" };

const browsers: [string, Record<string, string>][] = [
  ["a prefetch", { ...navigation, "sec-purpose": "prefetch" }],
  ["a prerender", { ...navigation, "sec-purpose": "prefetch;prerender" }],
  ["a prefetch of an older browser", { purpose: "prefetch" }],
  ["the address bar", { ...navigation, "sec-fetch-user": "?1" }],
  ["an unknown header of its family", { "sec-fetch-storage-access": "active" }],
  ["a navigation with the mode alone", { "sec-fetch-mode": "navigate" }],
];

test.each(browsers)("handler refuses a change by a browser: %s", async (_name, headers) => {
  for (const options of [{ loopbackOnly: true }, { token: "secret" }]) {
    await fixture.restart({}, options);
    for (const [method, path] of changes) {
      const sent = { ...headers, authorization: "Bearer secret" };
      const [status, body] = await fixture.server.json(path, { method, headers: sent });
      expect([path, status, body]).toMatchObject([path, 403, errorShape(403)]);
    }
    expect(fixture.controller.status).toMatchObject({ state: "awake", paused: false });
    const read = await fixture.server.fetch("/is_sleeping", {
      headers: { ...headers, authorization: "Bearer secret" },
    });
    expect(read.status).toBe(200);
  }
});

test("handler refuses a change by GET of the own page and accepts its POST", async () => {
  const headers = { "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty" };
  expect((await fixture.server.fetch("/release_memory_occupation", { headers })).status).toBe(403);
  expect(fixture.controller.status.state).toBe("awake");
  expect((await fixture.server.post("/sleep", undefined, headers)).status).toBe(200);
});

test("handler accepts a POST by the fetch of Node, whose only such header is its mode", async () => {
  expect((await fixture.server.post("/sleep", undefined, { "sec-fetch-mode": "cors" })).status).toBe(200);
});
