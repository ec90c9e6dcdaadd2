/** Engines that must not be awake together, and engines that never make room. */

import { afterEach, expect, test } from "bun:test";
import { failureOf } from "../../support/device.ts";
import { PoolFixture } from "./pool-fixture.ts";

let fixture: PoolFixture;

afterEach(() => fixture.close());

const conflicts = (engine: string, other: string) => engine[0] === other[0];

test("admit() puts an engine that conflicts to sleep although there is room", async () => {
  fixture = await PoolFixture.start(
    [
      { name: "a1", mib: 4, awake: false },
      { name: "a2", mib: 4 },
      { name: "b1", mib: 4 },
    ],
    { freeMiB: [40], pool: { conflicts } },
  );
  await fixture.request("a1");
  expect(fixture.awake).toEqual(["a1", "b1"]);
  await fixture.request("a2");
  expect(fixture.awake).toEqual(["a2", "b1"]);
  expect(fixture.isIntact("a2")).toBe(true);
});

test("admit() counts the memory of an engine that conflicts before it puts others to sleep", async () => {
  fixture = await PoolFixture.start(
    [
      { name: "a1", mib: 10, awake: false },
      { name: "a2", mib: 10 },
      { name: "b1", mib: 10 },
    ],
    { pool: { conflicts } },
  );
  await fixture.request("a1");
  expect(fixture.awake).toEqual(["a1", "b1"]);
});

test("admit() refuses when an engine that conflicts is paused", async () => {
  fixture = await PoolFixture.start(
    [
      { name: "a1", mib: 4, awake: false },
      { name: "a2", mib: 4 },
    ],
    { freeMiB: [40], pool: { conflicts } },
  );
  await fixture.engine("a2").pause();
  const failure = await failureOf(() => fixture.pool.admit("a1"));
  expect(failure.code).toBe("ENGINE_UNAVAILABLE");
  expect(String((failure.cause as Error).message)).toContain(
    "a2 must sleep before a1 wakes, but it is paused",
  );
  expect(fixture.engine("a1").status.state).toBe("asleep");
});

test("admit() leaves a persistent engine awake when it needs room", async () => {
  fixture = await PoolFixture.start(
    [
      { name: "want", mib: 10, awake: false },
      { name: "kept", mib: 12 },
      { name: "other", mib: 12 },
    ],
    { pool: { persistent: ["kept"] } },
  );
  await fixture.request("want");
  expect(fixture.awake).toEqual(["want", "kept"]);
});

test("admit() refuses when only a persistent engine could make room", async () => {
  fixture = await PoolFixture.start(
    [
      { name: "want", mib: 10, awake: false },
      { name: "kept", mib: 12 },
    ],
    { pool: { persistent: ["kept"] } },
  );
  const failure = await failureOf(() => fixture.pool.admit("want"));
  expect(failure.cause).toMatchObject({ code: "OUT_OF_DEVICE_MEMORY" });
  expect(fixture.awake).toEqual(["kept"]);
});
