/** Operators, pauses and clients that leave while a pool makes room. */

import { afterEach, describe, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { codeOf, failureOf, onEmulator, setFaults } from "../../support/device.ts";
import { until } from "../../support/fake-engine.ts";
import { type EngineSpec, PoolFixture } from "./pool-fixture.ts";

let fixture: PoolFixture;

afterEach(async () => {
  setFaults("");
  await fixture.close();
});

const two: readonly EngineSpec[] = [
  { name: "a", mib: 4 },
  { name: "b", mib: 4, awake: false },
];
const held = two.map((spec) => ({ ...spec, options: { whenAsleep: "hold" as const } }));

/** Starts a switch to b that waits for a request of a; returns that request's lease. */
async function switchInProgress(waiting: () => unknown) {
  const lease = await fixture.pool.admit("a");
  waiting();
  await until(() => fixture.engine("a").status.state === "falling-asleep");
  return lease;
}

describe("an operator's sleep", () => {
  test("admit() does not undo an operator's sleep that begins while others make room", async () => {
    fixture = await PoolFixture.start(two);
    const client = Promise.withResolvers<unknown>();
    const lease = await switchInProgress(() => codeOf(() => fixture.request("b")).then(client.resolve));
    await fixture.engine("b").sleep();
    expect(await client.promise).toBe("ENGINE_UNAVAILABLE");
    await until(() => fixture.awake.includes("a"));
    expect(lease.signal.aborted).toBe(false);
    lease.release();
    expect(fixture.engine("b").status).toMatchObject({ state: "asleep", reason: "operator" });
  });

  test("admit() does not undo an operator's sleep that comes just before the wake-up", async () => {
    fixture = await PoolFixture.start([{ name: "b", mib: 4, awake: false }], { freeMiB: [8] });
    const client = codeOf(() => fixture.request("b"));
    await Promise.all([fixture.engine("b").sleep(), client]);
    expect(fixture.engine("b").status).toMatchObject({ state: "asleep", reason: "operator" });
  });

  test.if(onEmulator)(
    "admit() does not wake an engine that made room once an operator put it to sleep",
    async () => {
      fixture = await PoolFixture.start(two);
      let operator: Promise<unknown> | undefined;
      fixture.engine("b").subscribe((event) => {
        if (event.type === "transition-started") operator = fixture.engine("a").sleep();
      });
      setFaults("aclrtMapMem:1=507899");
      expect(await failureOf(() => fixture.request("b"))).toMatchObject({
        code: "ENGINE_UNAVAILABLE",
        cause: { code: "ACL_CALL_FAILED" },
      });
      await operator;
      expect(fixture.engine("a").status).toMatchObject({ state: "asleep", reason: "operator" });
    },
  );

  test("admit() does not deepen an operator's sleep of an engine that was to make room", async () => {
    fixture = await PoolFixture.start(
      [
        { name: "a", mib: 4, options: { reload: () => undefined } },
        { name: "b", mib: 4, awake: false },
      ],
      { pool: { sleepLevel: 2 } },
    );
    const operator = fixture.engine("a").sleep({ level: 1 });
    await Promise.all([operator, fixture.request("b")]);
    expect(fixture.engine("a").status).toMatchObject({ level: 1, reason: "operator" });
    expect(fixture.awake).toEqual(["b"]);
  });
});

describe("a pause", () => {
  test("admit() serves the requests of a sleeping engine once its pause ends", async () => {
    fixture = await PoolFixture.start(held);
    await fixture.engine("b").pause();
    const request = fixture.request("b");
    await sleep(5);
    expect(fixture.awake).toEqual(["a"]);
    expect(fixture.pool.queueOf("b").waiting).toBe(1);
    await fixture.engine("b").resume();
    await request;
    expect(fixture.awake).toEqual(["b"]);
  });

  test("admit() does not wake an engine that is paused while others make room", async () => {
    fixture = await PoolFixture.start(held);
    let isServed = false;
    const request = { end: Promise.resolve() };
    const lease = await switchInProgress(() => {
      request.end = fixture.request("b").then(() => {
        isServed = true;
      });
    });
    await fixture.engine("b").pause();
    await until(() => fixture.awake.includes("a"));
    lease.release();
    await sleep(5);
    expect([isServed, fixture.engine("b").status.state]).toEqual([false, "asleep"]);
    await fixture.engine("b").resume();
    await request.end;
    expect(fixture.awake).toEqual(["b"]);
  });

  test("admit() puts no engine to sleep that was paused while another made room", async () => {
    const engines: EngineSpec[] = [
      { name: "a", mib: 4 },
      { name: "c", mib: 4 },
    ];
    fixture = await PoolFixture.start([...engines, { name: "b", mib: 8, awake: false }]);
    const leases = [await fixture.pool.admit("a"), await fixture.pool.admit("c")];
    const refused = codeOf(() => fixture.request("b"));
    const moving = () => ["a", "c"].find((name) => fixture.engine(name).status.state === "falling-asleep");
    await until(() => moving() !== undefined);
    const paused = moving() === "a" ? "c" : "a";
    const pause = fixture.engine(paused).pause({ mode: "wait" });
    for (const lease of leases) lease.release();
    await pause;
    expect(await refused).toBe("ENGINE_UNAVAILABLE");
    expect(fixture.engine(paused).status.state).toBe("paused");
    expect(fixture.awake).toEqual([paused === "a" ? "c" : "a"]);
  });
});

describe("clients", () => {
  test("admit() gives up a switch when the last request that waits for it leaves", async () => {
    fixture = await PoolFixture.start(two);
    const client = new AbortController();
    const lease = await switchInProgress(() => fixture.pool.admit("b", client.signal).catch(() => undefined));
    client.abort();
    await until(() => fixture.engine("a").status.state === "awake");
    expect(lease.signal.aborted).toBe(false);
    lease.release();
    await fixture.request("a");
    expect(fixture.engine("b").status.state).toBe("asleep");
  });

  test("admit() serves a request that comes while a switch is given up", async () => {
    fixture = await PoolFixture.start(two);
    const client = new AbortController();
    const lease = await switchInProgress(() => fixture.pool.admit("b", client.signal).catch(() => undefined));
    client.abort();
    const next = fixture.request("b");
    lease.release();
    await next;
    expect(fixture.awake).toEqual(["b"]);
  });

  test("admit() completes a switch while another request waits for it", async () => {
    fixture = await PoolFixture.start(two);
    const client = new AbortController();
    const other = Promise.withResolvers<void>();
    const lease = await switchInProgress(() => {
      fixture.pool.admit("b", client.signal).catch(() => undefined);
      fixture.request("b").then(other.resolve, other.reject);
    });
    client.abort();
    await sleep(5);
    expect(fixture.engine("a").status.state).toBe("falling-asleep");
    lease.release();
    await other.promise;
  });
});

test("sleep() and wakeUp() do nothing when onlyIf returns false at their turn", async () => {
  fixture = await PoolFixture.start(two, { freeMiB: [8] });
  const { a, b } = fixture.engines;
  let isPermitted = true;
  const first = a?.pause().then(() => {
    isPermitted = false;
  });
  const sleep = codeOf(() => a?.sleep({ onlyIf: () => isPermitted }));
  await first;
  expect(await sleep).toBe("STATE_CONFLICT");
  expect(await codeOf(() => b?.wakeUp({ onlyIf: () => isPermitted }))).toBe("STATE_CONFLICT");
  expect([a?.status.state, b?.status.state]).toEqual(["paused", "asleep"]);
  await b?.wakeUp({ onlyIf: () => true });
  expect(b?.status.state).toBe("awake");
});
