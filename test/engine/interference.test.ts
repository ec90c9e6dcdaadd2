/** What the library must not do to the program: lose its content, hide its failures, hold it back for ever. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { connect } from "node:net";
import type { RemoteAllocator } from "camem";
import { codeOf } from "../support/device.ts";
import { until } from "../support/fake-engine.ts";
import { type BuiltEngine, buildEngine, EngineProcess, preloadLibrary } from "./engine.ts";

let engine: BuiltEngine;

beforeAll(() => {
  engine = buildEngine();
}, 300_000);
afterAll(() => rm(engine.folder, { recursive: true, force: true }));

const mib = 1 << 20;
const withLibrary = { preload: preloadLibrary };

async function start(
  environment: Readonly<Record<string, string>> = {},
  options: { readonly preload?: string } = withLibrary,
): Promise<EngineProcess> {
  const running = await EngineProcess.start(engine, { program: "probe", environment, ...options });
  await ask(running, "init . .", "set . . 0");
  return running;
}

/** Asks for calls that succeed. */
async function ask(running: EngineProcess, ...lines: string[]): Promise<void> {
  for (const line of lines) expect([line, await running.ask(line)]).toEqual([line, "0"]);
}

const setFaults = (running: EngineProcess, faults: string) => ask(running, `faults ${faults}`);

/** Resolves when the library has begun to hold calls back. */
const untilHeld = (allocator: RemoteAllocator) => until(() => allocator.status().gate === "moving");

test("a gated call reaches AscendCL with all of its parameters", async () => {
  for (const options of [{}, withLibrary]) {
    await using running = await start({}, options);
    expect(await running.ask("last_parameters . . 4660")).toBe("0 4660 4660");
  }
});

describe("failures of queued work", () => {
  // Each copy of the sleeps fails on the device while a thread of the program waits for that device.
  test.each([
    ["aclrtFreeWithDevSync", 1],
    ["aclrtSynchronizeDevice", 0],
  ])(
    "a sleep whose copy fails is undone beside a thread in %s, which sees no failure",
    async (_call, frees) => {
      await using running = await start();
      await ask(running, `malloc a . ${8 * mib} 0`);
      await using allocator = await running.connect();
      await ask(running, `keep_busy . . ${frees}`);
      for (let round = 1; round <= 30; round++) {
        await ask(running, `fill a . ${8 * mib} ${round} 0`);
        await setFaults(running, "aclrtMemcpyAsync.task:1=507015");
        const outcome = await allocator.sleep().catch((error) => error.code);
        await setFaults(running, "");
        expect(["ACL_CALL_FAILED", "BUFFER_MOVING"]).toContain(outcome);
        expect(await running.ask(`read a . ${7 * mib}`)).toBe(`0 ${round}`);
      }
      expect(await running.ask("keep_busy . .")).toBe("0 0");
    },
  );

  test.each([
    ["free b .", "synchronize s ."],
    ["sleep", "synchronize s ."],
    ["sleep", "synchronize_device . ."],
  ])("a failure of the program's own work is reported to it after %s, by %s, once", async (by, wait) => {
    for (const options of by === "sleep" ? [withLibrary] : [{}, withLibrary]) {
      await using running = await start({}, options);
      await ask(running, `malloc a . ${4 * mib} 0`, `malloc b . ${4 * mib} 0`, "stream s .");
      await setFaults(running, "aclrtMemsetAsync.task:1=507015");
      await ask(running, `fill_async a s ${mib} 5`);
      if (by === "sleep") {
        await using allocator = await running.connect();
        expect(await codeOf(() => allocator.sleep())).toBe("ACL_CALL_FAILED");
      } else await ask(running, by);
      expect(await running.ask(wait)).toBe("507015");
      expect(await running.ask(wait)).toBe("0");
    }
  });
});

describe("a sleep that waits for the device", () => {
  test("sleep gives way to a call that belongs to a capture", async () => {
    await using running = await start();
    await ask(running, `malloc a . ${4 * mib} 0`, "stream s .");
    await using allocator = await running.connect();
    await ask(running, "capture s . 2", `fill_async a s ${mib} 5`);
    const sleep = codeOf(() => allocator.sleep());
    await untilHeld(allocator);
    await ask(running, `fill_async a s ${mib} 6`);
    expect(await sleep).toBe("BUFFER_MOVING");
    await ask(running, "end_capture s m");
    await allocator.sleep();
  });

  test("sleep gives way after five seconds to a call that the device waits for", async () => {
    await using running = await start();
    await ask(running, `malloc a . ${4 * mib} 0`, "stream s .", "stream t .", `fill a . ${4 * mib} 0 0`);
    await using allocator = await running.connect();
    await ask(running, "wait_value a s 7");
    const sleep = codeOf(() => allocator.sleep());
    await untilHeld(allocator);
    await ask(running, "write_value a t 7");
    expect(await sleep).toBe("BUFFER_MOVING");
    await ask(running, "synchronize s .");
    await allocator.sleep();
  });
});

describe("memory that is freed or lost during a plan", () => {
  test.each(["sleep", "wakeUp"] as const)(
    "a device reset during %s uses no memory that was freed",
    async (verb) => {
      await using running = await start({
        CAMEM_EMULATOR_TIMING: "aclrtUnmapMem=200ms,aclrtMallocPhysical=200ms",
        CAMEM_ON_TOUCH: "hold",
        MALLOC_PERTURB_: "165",
      });
      await ask(running, `reserve v . ${32 * mib}`);
      for (const [index, handle] of ["h", "i", "j"].entries())
        await ask(
          running,
          `physical ${handle} . ${2 * mib} 0`,
          `map v ${handle} ${index * 2 * mib} ${2 * mib} 0`,
          `access v . ${index * 2 * mib} ${2 * mib} 0`,
        );
      await using allocator = await running.connect();
      if (verb === "wakeUp") await allocator.sleep();
      const outcome = allocator[verb]().then(
        () => "done",
        (error) => error.message,
      );
      await Bun.sleep(300);
      await ask(running, "reset . . 0");
      expect(await outcome).not.toMatch(/access|undoing/);
      await ask(running, "set . . 0", `malloc b . ${mib} 0`);
    },
  );

  test("an allocation waits for a plan that releases at its end what the program has freed", async () => {
    const environment = { CAMEM_EMULATOR_HBM: "512MiB", CAMEM_EMULATOR_TIMING: "d2h=100MiB/s" };
    await using running = await start(environment);
    await ask(running, `malloc a . ${300 * mib} 0`);
    await using allocator = await running.connect();
    const sleep = allocator.sleep().catch(() => undefined);
    await untilHeld(allocator);
    await ask(running, "free a .", `malloc b . ${300 * mib} 0`);
    await sleep;
  });

  test("an allocation that is tried again while the device is busy keeps one address range", async () => {
    await using running = await start({ CAMEM_EMULATOR_HBM: "512MiB" });
    await ask(running, `malloc a . ${300 * mib} 0`, `malloc c . ${4 * mib} 0`, `fill c . ${4 * mib} 0 0`);
    await ask(running, "stream s .", "stream t .");
    const before = await running.ask("reservations . .");
    // What is freed is not given back before the device has finished its work, as a plan finds out.
    await ask(running, "wait_value c s 7", "free a .");
    await using allocator = await running.connect();
    await codeOf(() => allocator.prepare()).catch(() => undefined);
    expect(await running.ask(`malloc b . ${300 * mib} 0`)).toStartWith("207001");
    await ask(running, "write_value c t 7", "synchronize s .", `malloc b . ${300 * mib} 0`);
    expect(await running.ask("reservations . .")).toBe(before);
  });

  test("a wake-up succeeds after one that could not be undone", async () => {
    await using running = await start({ CAMEM_ON_TOUCH: "hold" });
    await ask(running, `malloc a . ${16 * mib} 0`, `fill a . ${16 * mib} 9 0`);
    await using allocator = await running.connect();
    await allocator.sleep();
    await setFaults(running, "aclrtMemcpyAsync:1=507015,aclrtUnmapMem:1+=507899");
    expect(await codeOf(() => allocator.wakeUp())).toBe("ACL_CALL_FAILED");
    await setFaults(running, "");
    await allocator.wakeUp();
    expect(await running.ask(`read a . ${15 * mib}`)).toBe("0 9");
  });

  test("a write is kept where a controller has made the tag immutable", async () => {
    await using running = await start();
    await ask(running, `malloc a . ${4 * mib} 0`, `fill a . ${4 * mib} 1 0`);
    await using allocator = await running.connect();
    allocator.defineTag("default", { immutable: true });
    for (const cycle of [1, 2]) {
      await allocator.sleep();
      await allocator.wakeUp();
      await ask(running, `write a . 5 ${70 + cycle}`);
    }
    await allocator.sleep();
    await allocator.wakeUp();
    expect(await running.ask("read a . 5")).toBe("0 72");
  });
});

test("a program without a free descriptor stays known to its controller, and the library rests", async () => {
  await using running = await start();
  await ask(running, `malloc a . ${4 * mib} 0`);
  await using allocator = await running.connect();
  await ask(running, "exhaust . .");
  const clients = [1, 2, 3].map(() => connect({ path: allocator.path }).on("error", () => undefined));
  const ticks = () => {
    const [, after = ""] = readFileSync(`/proc/${running.process.pid}/stat`, "utf8").split(") ");
    const fields = after.split(" ");
    return Number(fields[11]) + Number(fields[12]);
  };
  const before = ticks();
  await Bun.sleep(1_500);
  // Of 150 where it spins.
  expect(ticks() - before).toBeLessThan(50);
  expect(allocator.status().gate).toBe("open");
  for (const client of clients) client.destroy();
});
