/** Which engines make room, and how deep they sleep. */

import { afterEach, describe, expect, test } from "bun:test";
import { failureOf, MiB, onEmulator, setFaults } from "../../support/device.ts";
import { until } from "../../support/fake-engine.ts";
import { PoolFixture } from "./pool-fixture.ts";

let fixture: PoolFixture;

afterEach(async () => {
  setFaults("");
  await fixture.close();
});

const reload = () => undefined;

describe("eviction", () => {
  test("admit() puts only the engine to sleep that suffices", async () => {
    fixture = await PoolFixture.start([
      { name: "want", mib: 20, awake: false },
      { name: "small", mib: 2 },
      { name: "middle", mib: 8 },
      { name: "big", mib: 22 },
    ]);
    for (const name of ["small", "middle", "big"]) await fixture.request(name);
    await fixture.request("want");
    expect(fixture.awake).toEqual(["want", "small", "middle"]);
  });

  test("admit() puts the fewest bytes to sleep", async () => {
    fixture = await PoolFixture.start(
      [
        { name: "want", mib: 10, awake: false },
        { name: "large", mib: 30 },
        { name: "eight", mib: 8 },
        { name: "six", mib: 6 },
        { name: "four", mib: 4 },
      ],
      { freeMiB: [0] },
    );
    await fixture.request("want");
    expect(fixture.awake).toEqual(["want", "large", "eight"]);
  });

  test("admit() puts no engine of another device to sleep", async () => {
    fixture = await PoolFixture.start(
      [
        { name: "other", mib: 10, device: 0 },
        { name: "b", mib: 10, device: 1, awake: false },
        { name: "c", mib: 10, device: 1 },
      ],
      { freeMiB: [0, 0] },
    );
    for (const name of ["b", "c", "b", "c"]) {
      await fixture.request(name);
      expect(fixture.awake).toEqual(["other", name]);
    }
  });

  test("admit() chooses an engine whose backup fits the host budget", async () => {
    fixture = await PoolFixture.start(
      [
        { name: "want", mib: 4, awake: false },
        { name: "tooLarge", mib: 8 },
        { name: "fits", mib: 6 },
      ],
      { allocator: { hostBudget: 10 * MiB } },
    );
    await fixture.request("tooLarge");
    await fixture.request("fits");
    await fixture.request("want");
    expect(fixture.awake).toEqual(["want", "tooLarge"]);
  });

  test("admit() puts an engine with reload to sleep at level 2 when level 1 exceeds the host budget", async () => {
    fixture = await PoolFixture.start(
      [
        { name: "want", mib: 10, awake: false },
        { name: "kept", mib: 10 },
        { name: "reloads", mib: 10, options: { reload } },
      ],
      { allocator: { hostBudget: 12 * MiB } },
    );
    await fixture.request("want");
    expect(fixture.awake).toEqual(["want", "kept"]);
    expect(fixture.engine("reloads").status).toMatchObject({ state: "asleep", level: 2, reason: "pool" });
    expect(fixture.isIntact("want")).toBe(true);
  });

  test("admit() prefers level 1 where one engine fits the host budget beside another at level 2", async () => {
    fixture = await PoolFixture.start(
      [
        { name: "want", mib: 12, awake: false },
        { name: "x", mib: 6, options: { reload } },
        { name: "y", mib: 6, options: { reload } },
      ],
      { allocator: { hostBudget: 18 * MiB } },
    );
    await fixture.request("want");
    const levels = ["x", "y"].map((name) => fixture.engine(name).status.level);
    expect(levels.toSorted()).toEqual([1, 2]);
  });

  test("admit() names the host budget when it alone prevents a switch", async () => {
    fixture = await PoolFixture.start(
      [
        { name: "want", mib: 10, awake: false },
        { name: "kept", mib: 10 },
      ],
      { allocator: { hostBudget: 12 * MiB } },
    );
    const error = await failureOf(() => fixture.request("want"));
    expect(error).toMatchObject({ code: "ENGINE_UNAVAILABLE", cause: { code: "HOST_BUDGET_EXCEEDED" } });
    expect(fixture.awake).toEqual(["kept"]);
  });

  test("admit() puts another engine to sleep when one cannot", async () => {
    fixture = await PoolFixture.start(
      [
        { name: "want", mib: 4, awake: false },
        { name: "stuck", mib: 4 },
        { name: "other", mib: 6 },
      ],
      { pool: { drainDeadlineMs: 1 } },
    );
    const lease = await fixture.pool.admit("stuck");
    const other = await fixture.pool.admit("other");
    const wanted = fixture.request("want");
    await until(() => fixture.engine("other").status.state !== "awake");
    other.release();
    await wanted;
    expect(fixture.awake).toEqual(["want", "stuck"]);
    lease.release();
  });
});

describe.if(onEmulator)("memory that was not given back", () => {
  test("admit() releases the memory again that a sleep could not give back", async () => {
    fixture = await PoolFixture.start([
      { name: "a", mib: 4 },
      { name: "b", mib: 4, awake: false },
    ]);
    setFaults("aclrtFreePhysical:1=500000");
    await fixture.request("b");
    expect(fixture.awake).toEqual(["b"]);
    expect(fixture.engine("a").status.reason).toBe("pool");
    await fixture.request("a");
    expect(fixture.isIntact("a")).toBe(true);
  });

  test("admit() releases memory that an operator's sleep could not give back", async () => {
    fixture = await PoolFixture.start([
      { name: "a", mib: 4 },
      { name: "b", mib: 4, awake: false },
    ]);
    setFaults("aclrtFreePhysical:1=500000");
    const error = await failureOf(() => fixture.engine("a").sleep());
    setFaults("");
    expect(error.transitionComplete).toBe(true);
    await fixture.request("b");
    expect(fixture.awake).toEqual(["b"]);
    expect(fixture.engine("a").status).toMatchObject({ state: "asleep", level: 1, reason: "operator" });
    fixture.pool.wakeUp("a");
    await until(() => fixture.engine("a").status.state === "awake");
    expect(fixture.isIntact("a")).toBe(true);
  });

  test("admit() serves after a release that keeps failing has ended", async () => {
    fixture = await PoolFixture.start([
      { name: "a", mib: 4 },
      { name: "b", mib: 4, awake: false },
    ]);
    setFaults("aclrtFreePhysical:1+=500000");
    expect(await failureOf(() => fixture.request("b"))).toMatchObject({ code: "ENGINE_UNAVAILABLE" });
    setFaults("");
    await fixture.request("b");
    await fixture.request("a");
    expect(fixture.isIntact("a") && fixture.awake.includes("a")).toBe(true);
  });

  test("admit() serves an engine that is awake although its host memory was not given back", async () => {
    fixture = await PoolFixture.start([
      { name: "a", mib: 4 },
      { name: "b", mib: 4, awake: false },
    ]);
    setFaults("aclrtFreeHost:1=500000");
    await fixture.request("b");
    setFaults("");
    expect(fixture.awake).toEqual(["b"]);
    expect(fixture.isIntact("b")).toBe(true);
  });

  test("wakeUp() reports transitionComplete and leaves the engines that made room asleep", async () => {
    fixture = await PoolFixture.start([
      { name: "a", mib: 4 },
      { name: "b", mib: 4, awake: false },
    ]);
    setFaults("aclrtFreeHost:1=500000");
    const error = await failureOf(() => fixture.pool.wakeUp("b"));
    setFaults("");
    expect(error).toMatchObject({ code: "ACL_CALL_FAILED", transitionComplete: true });
    expect(fixture.awake).toEqual(["b"]);
  });
});
