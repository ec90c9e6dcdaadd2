/** A short run of `bun run http-fuzz`. */

import { expect, test } from "bun:test";
import { httpFuzz } from "./driver.ts";

test("random requests change nothing that they must not, and none is answered with 500", async () => {
  const { failures, allowed, changed, statuses } = await httpFuzz({ seed: 1, requests: 1200 });
  expect(failures).toEqual([]);
  expect(allowed).toBeGreaterThan(10);
  expect(changed).toBeGreaterThan(5);
  for (const status of ["200", "307", "400", "401", "403", "404", "405", "none"])
    expect([status, statuses.get(status) ?? 0]).not.toEqual([status, 0]);
});

test("driver finds requests that change an engine without access", async () => {
  const { failures } = await httpFuzz({ seed: 1, requests: 300, forgetsToken: true });
  expect(failures.filter((failure) => /^changed .* to (token|both)/.test(failure))).toHaveLength(10);
});
