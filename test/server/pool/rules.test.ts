/**
 * The rules of a pool in small cases: engines of 1 to 3 units on one or two devices.
 *
 * Every short sequence of events is compared with a naive model after each event. Random events that overlap, with requests that
 * last, are checked for what must always hold. `CAMEM_TEST_POOL_EVENTS` is the length of the short sequences,
 * `CAMEM_TEST_POOL_SEEDS` the number of random sequences, `CAMEM_TEST_POOL_SEED` the first seed.
 */

import { expect, test } from "bun:test";
import { type Lease, ModelPool, SleepController } from "camem/server";
import { Random } from "../../fuzz/random.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { FakeMemory } from "./fake-memory.ts";
import { type EngineCase, type EventName, type PoolCase, type PoolEvent, PoolModel } from "./pool-model.ts";

const longest = Number(process.env["CAMEM_TEST_POOL_EVENTS"] ?? 2);
const seeds = Number(process.env["CAMEM_TEST_POOL_SEEDS"] ?? 1000);
const firstSeed = Number(process.env["CAMEM_TEST_POOL_SEED"] ?? 1);

function engine(units: number, changes: Partial<EngineCase> = {}): EngineCase {
  return { units, device: 0, reload: false, awake: true, ...changes };
}

const plenty = { hostUnits: 100, wakeOperatorSleep: false };
const asleep = { awake: false };
const reload = { reload: true };
const cases: readonly PoolCase[] = [
  { ...plenty, totals: [1], engines: [engine(1), engine(1, asleep)] },
  { ...plenty, totals: [1], wakeOperatorSleep: true, engines: [engine(1), engine(1, asleep)] },
  { ...plenty, totals: [3], engines: [engine(1), engine(2), engine(3, asleep)] },
  { ...plenty, totals: [4], engines: [engine(1), engine(3), engine(2, asleep)] },
  { ...plenty, totals: [2], engines: [engine(1), engine(1), engine(1, asleep)] },
  { ...plenty, totals: [1, 1], engines: [engine(1, { device: 1 }), engine(1), engine(1, asleep)] },
  { ...plenty, totals: [2], hostUnits: 2, engines: [engine(1), engine(1, reload), engine(2, asleep)] },
  {
    ...plenty,
    totals: [4],
    hostUnits: 3,
    engines: [engine(2, reload), engine(2, reload), engine(3, asleep)],
  },
  { ...plenty, totals: [3], hostUnits: 1, engines: [engine(3), engine(1, { ...asleep, ...reload })] },
  {
    totals: [2],
    hostUnits: 2,
    wakeOperatorSleep: true,
    engines: [engine(2, reload), engine(1, { ...asleep, ...reload }), engine(1, { ...asleep, ...reload })],
  },
];

const eventNames: readonly EventName[] = [
  ...(["request", "sleep", "wake", "wake alone", "pause", "resume", "fault", "close"] as const),
];

function eventsOf({ engines }: PoolCase): PoolEvent[] {
  const all = engines.flatMap((_, index) => eventNames.map((name) => ({ name, engine: index })));
  // A fault concerns the next release of whichever engine.
  return all.filter(({ name, engine: index }) => name !== "fault" || index === 0);
}

/** Runs everything that is pending: the fake memory has no timers. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A pool over counted memory. */
class Pool {
  readonly memory: FakeMemory;
  readonly controllers: SleepController[] = [];
  readonly outcomes = new Map<number, "served" | "refused">();
  readonly leases = new Map<Lease, string>();
  readonly violations: string[] = [];
  readonly pool: ModelPool;
  readonly clock = new FakeClock();
  #requests = 0;

  static async start(poolCase: PoolCase): Promise<Pool> {
    const memory = new FakeMemory(poolCase.totals, poolCase.hostUnits);
    for (const [index, { units, device }] of poolCase.engines.entries())
      memory.memories.set(`${index}/weights`, { units, device, state: "mapped", left: 0 });
    const controllers = poolCase.engines.map(
      (each, index) =>
        new SleepController(memory, {
          name: `${index}`,
          tags: { weights: `${index}/weights` },
          whenAsleep: "hold",
          clock: new FakeClock(),
          ...(each.reload ? { reload: () => undefined } : {}),
        }),
    );
    for (const [index, { awake }] of poolCase.engines.entries())
      if (!awake) await controllers[index]?.sleep({ reason: "pool" });
    return new Pool(memory, controllers, poolCase);
  }

  private constructor(memory: FakeMemory, controllers: SleepController[], poolCase: PoolCase) {
    this.memory = memory;
    this.controllers = controllers;
    const { wakeOperatorSleep } = poolCase;
    this.pool = new ModelPool(controllers, { clock: this.clock, minimumResidency: 0, wakeOperatorSleep });
    this.clock.advance(1);
    memory.onMove = (tag) => this.#checkMove(tag);
    this.pool.subscribe((event) => {
      if (event.type !== "transition-started" || event.reason !== "pool") return;
      const { state, paused, reason } = this.#controller(Number(event.engine)).status;
      const left = memory.memories.get(`${event.engine}/weights`)?.left ?? 0;
      const isPermitted =
        event.operation === "sleep"
          ? state === "awake" || (state === "asleep" && left > 0)
          : state === "asleep" && !paused && (reason === "pool" || wakeOperatorSleep);
      if (!isPermitted) this.violations.push(`${event.operation} of ${event.engine} while ${state}`);
    });
  }

  /** Calls `then` once, when the pool has put an engine to sleep and not yet woken another. */
  onRoom(index: number, then: () => void): void {
    const unsubscribe = this.pool.subscribe((event) => {
      if (event.type !== "transition-ended" || event.engine !== `${index}` || event.reason !== "pool") return;
      unsubscribe();
      then();
    });
  }

  #controller(index: number): SleepController {
    const controller = this.controllers[index];
    if (controller === undefined) throw new Error(`there is no engine ${index}`);
    return controller;
  }

  #checkMove(tag: string): void {
    for (const name of this.leases.values())
      if (tag === `${name}/weights`) this.violations.push(`memory of ${name} moved under a request`);
    for (const device of [0, 1])
      if (this.memory.freeUnits(device) < 0) this.violations.push(`device ${device} is overcommitted`);
  }

  /** Starts what an event stands for. `isBrief`: a request ends as soon as it is served. */
  apply({ name, engine: index }: PoolEvent, isBrief: boolean): void {
    const controller = this.#controller(index);
    const ignored = (pending: Promise<unknown>) => void pending.catch(() => undefined);
    this.clock.advance(1);
    if (name === "request") this.#request(`${index}`, isBrief);
    if (name === "fault") this.memory.failRelease = true;
    if (name === "pause") ignored(controller.pause());
    if (name === "resume") ignored(controller.resume());
    if (name === "sleep") ignored(controller.sleep());
    if (name === "wake") ignored(this.pool.wakeUp(`${index}`));
    if (name === "wake alone") ignored(controller.wakeUp());
    if (name === "close") ignored(controller.close());
  }

  #request(name: string, isBrief: boolean): void {
    const request = this.#requests++;
    const served = (lease: Lease) => {
      this.outcomes.set(request, "served");
      if (isBrief) return lease.release();
      this.leases.set(lease, name);
      lease.signal.addEventListener("abort", () => this.end(lease), { once: true });
    };
    const refused = () => void this.outcomes.set(request, "refused");
    this.pool.admit(name, undefined, { deadlineMs: 1e9 }).then(served, refused);
  }

  end(lease: Lease): void {
    this.leases.delete(lease);
    lease.release();
  }

  /**
   * Ends everything that may keep a request waiting. Returns the engines whose requests wait nevertheless, other than those that
   * an operator's wake-up could not make room for.
   */
  async drain(): Promise<string[]> {
    for (let round = 0; round < 12; round++) {
      for (const lease of [...this.leases.keys()]) this.end(lease);
      await settle();
      for (const controller of this.controllers) controller.resume().catch(() => undefined);
      await settle();
      const held = this.controllers.filter(
        ({ name, status }) => status.reason === "operator" && this.pool.queueOf(name).waiting > 0,
      );
      for (const { name } of held) this.pool.wakeUp(name).catch(() => undefined);
    }
    const starved = this.controllers.filter(
      ({ name, status }) => status.reason !== "operator" && this.pool.queueOf(name).waiting > 0,
    );
    return starved.map(({ name }) => name);
  }

  view() {
    const engines = this.controllers.map(
      ({ status: { state, level, reason } }) => `${state} ${level} ${reason}`,
    );
    return [...engines, JSON.stringify([...this.outcomes].toSorted(([a], [b]) => a - b))];
  }
}

function viewOf({ engines, outcomes }: PoolModel) {
  const states = engines.map(({ asleep: sleep, paused, closed }) => {
    if (closed) return `closed ${sleep?.level ?? null} ${sleep?.reason ?? null}`;
    if (sleep) return `asleep ${sleep.level} ${sleep.reason}`;
    return paused ? "paused null null" : "awake null null";
  });
  return [...states, JSON.stringify([...outcomes].toSorted(([a], [b]) => a - b))];
}

async function compare(poolCase: PoolCase, events: readonly PoolEvent[]): Promise<void> {
  const real = await Pool.start(poolCase);
  const model = new PoolModel(poolCase);
  for (const event of events) {
    real.apply(event, true);
    model.apply(event);
    await settle();
    const [got, wanted] = [real.view(), viewOf(model)];
    if (JSON.stringify(got) !== JSON.stringify(wanted) || real.violations.length > 0)
      throw new Error(JSON.stringify({ poolCase, events, event, got, wanted, violations: real.violations }));
  }
  await real.pool.close();
}

function* sequences(events: readonly PoolEvent[], length: number): Generator<PoolEvent[]> {
  if (length === 0) return yield [];
  for (const shorter of sequences(events, length - 1)) for (const event of events) yield [...shorter, event];
}

test("admit() rejects with CLOSED when the controller of its engine closes while it waits", async () => {
  const real = await Pool.start({ ...plenty, totals: [1], engines: [engine(1), engine(1, asleep)] });
  real.apply({ name: "pause", engine: 0 }, true);
  await settle();
  const waiting = real.pool.admit("0", undefined, { deadlineMs: 1e9 }).catch((error) => error.code);
  await settle();
  real.apply({ name: "close", engine: 0 }, true);
  expect(await waiting).toBe("CLOSED");
  expect(await real.pool.wakeUp("0").catch((error) => error.code)).toBe("CLOSED");
  await real.pool.close();
});

test("abortRequests() aborts the requests of one engine, also those that wait in the pool", async () => {
  const real = await Pool.start({ ...plenty, totals: [1], engines: [engine(1), engine(1, asleep)] });
  const running = await real.pool.admit("0");
  const waiting = real.pool.admit("1", undefined, { deadlineMs: 1e9 }).catch((error) => error.code);
  await settle();
  expect(real.pool.abortRequests("1")).toBe(1);
  expect(await waiting).toBe("ABORTED");
  expect(running.signal.aborted).toBe(false);
  expect(real.pool.abortRequests("0")).toBe(1);
  expect(running.signal.aborted).toBe(true);
  running.release();
  await real.pool.close();
});

test("admit() waits when an operator's wake-up takes the room that was made for it", async () => {
  const engines = [engine(1), engine(1, asleep), engine(1, asleep)];
  const real = await Pool.start({ ...plenty, totals: [1], engines });
  real.onRoom(0, () => real.apply({ name: "wake alone", engine: 2 }, true));
  real.apply({ name: "request", engine: 1 }, true);
  await settle();
  expect(real.view()).toEqual(["asleep 1 pool", "awake null null", "asleep 1 pool", '[[0,"served"]]']);
  await real.pool.close();
});

test("admit() waits when an operator's switch takes host memory only meanwhile", async () => {
  const engines = [engine(1), engine(3), engine(1, asleep), engine(3, asleep)];
  const real = await Pool.start({ ...plenty, totals: [4], hostUnits: 7, engines });
  real.onRoom(0, () => real.apply({ name: "request", engine: 3 }, true));
  real.apply({ name: "wake", engine: 2 }, true);
  await settle();
  const states = ["asleep 1 pool", "asleep 1 pool", "awake null null", "awake null null"];
  expect(real.view()).toEqual([...states, '[[0,"served"]]']);
  await real.pool.close();
});

test("pool does what the model does after every short sequence of events", async () => {
  let count = 0;
  for (const poolCase of cases)
    for (const events of sequences(eventsOf(poolCase), longest)) {
      await compare(poolCase, events);
      count++;
    }
  console.log(`${count} sequences of ${longest} events`);
  expect(count).toBeGreaterThan(0);
}, 3_600_000);

test("pool does what the model does after long random sequences of events", async () => {
  for (let seed = firstSeed; seed < firstSeed + seeds / 5; seed++) {
    const random = new Random(seed, 0);
    const poolCase = random.pick(cases);
    const events = Array.from({ length: 30 }, () => random.pick(eventsOf(poolCase)));
    await compare(poolCase, events).catch((cause) => {
      throw new Error(`seed ${seed}`, { cause });
    });
  }
}, 3_600_000);

test("pool respects operators, pauses and requests in flight when events overlap", async () => {
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const random = new Random(seed, 1);
    const poolCase = random.pick(cases);
    const real = await Pool.start(poolCase);
    for (let count = 0; count < 12; count++) {
      real.apply(random.pick(eventsOf(poolCase)), random.below(3) === 0);
      const [lease] = real.leases.keys();
      if (lease && random.below(3) === 0) real.end(lease);
      if (random.below(4) === 0) await settle();
      for (let turn = random.below(12); turn > 0; turn--) await Promise.resolve();
    }
    const waiting = await real.drain();
    if (waiting.length > 0 || real.violations.length > 0)
      throw new Error(
        JSON.stringify({ seed, poolCase, waiting, violations: real.violations, view: real.view() }),
      );
    await real.pool.close();
  }
  console.log(`seeds ${firstSeed} to ${firstSeed + seeds - 1}`);
}, 3_600_000);
