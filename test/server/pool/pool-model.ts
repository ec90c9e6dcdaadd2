/** The rules of a pool as a naive model: each event takes effect at once, and requests end as soon as they are served. */

export interface EngineCase {
  readonly units: number;
  readonly device: number;
  readonly reload: boolean;
  readonly awake: boolean;
}

export interface PoolCase {
  readonly totals: readonly number[];
  readonly hostUnits: number;
  readonly wakeOperatorSleep: boolean;
  readonly engines: readonly EngineCase[];
}

/** `wake alone` is an operator's wake-up of the engine itself: nothing makes room for it. */
export type EventName = "request" | "sleep" | "wake" | "wake alone" | "pause" | "resume" | "fault" | "close";

export interface PoolEvent {
  readonly name: EventName;
  readonly engine: number;
}

interface ModelEngine {
  readonly index: number;
  readonly units: number;
  readonly device: number;
  readonly reload: boolean;
  asleep: { level: 1 | 2; reason: "operator" | "pool" } | undefined;
  paused: boolean;
  closed: boolean;
  left: number;
  queue: number[];
  lastUsed: number;
}

interface Sleep {
  readonly engine: ModelEngine;
  /** Undefined: it only gives back what a failed release has left. */
  readonly level: 1 | 2 | undefined;
}

export class PoolModel {
  readonly engines: readonly ModelEngine[];
  readonly outcomes = new Map<number, "served" | "refused">();
  readonly #case: PoolCase;
  #fault = false;
  #now = 0;
  #requests = 0;

  constructor(poolCase: PoolCase) {
    this.#case = poolCase;
    this.engines = poolCase.engines.map(({ units, device, reload, awake }, index) => ({
      index,
      units,
      device,
      reload,
      asleep: awake ? undefined : { level: 1, reason: "pool" },
      paused: false,
      closed: false,
      left: 0,
      queue: [],
      lastUsed: 0,
    }));
  }

  apply({ name, engine: index }: PoolEvent): void {
    const engine = this.engines[index];
    if (engine === undefined) throw new Error(`there is no engine ${index}`);
    this.#now++;
    if (name === "request") engine.queue.push(this.#requests++);
    if (name === "fault") this.#fault = true;
    if (name === "close") engine.closed = true;
    if (!engine.closed) this.#operate(name, engine);
    this.#settle();
  }

  #operate(name: EventName, engine: ModelEngine): void {
    if (name === "pause") engine.paused = true;
    if (name === "resume") this.#resume(engine);
    if (name === "sleep") this.#operatorSleep(engine);
    if (name === "wake" && engine.asleep && this.#eviction(engine)) this.#switchTo(engine);
    if (name === "wake alone" && engine.asleep && this.#eviction(engine)?.length === 0) this.#wake(engine);
  }

  #resume(engine: ModelEngine): void {
    if (engine.paused && !engine.asleep) engine.lastUsed = this.#now;
    engine.paused = false;
  }

  #operatorSleep(engine: ModelEngine): void {
    if (engine.asleep?.level === 2) return;
    if (engine.asleep) {
      engine.asleep.reason = "operator";
      engine.left = 0;
    } else if (engine.units <= this.#hostLeft()) this.#sleep(engine, 1, "operator");
  }

  #sleep(engine: ModelEngine, level: 1 | 2, reason: "operator" | "pool"): void {
    engine.asleep = { level, reason };
    if (this.#fault) engine.left = engine.units;
    this.#fault = false;
  }

  #free(device: number): number {
    const here = this.engines.filter((engine) => engine.device === device);
    const held = here.reduce((total, { asleep, units, left }) => total + (asleep ? left : units), 0);
    return (this.#case.totals[device] ?? 0) - held;
  }

  #hostLeft(): number {
    const offloaded = this.engines.filter(({ asleep }) => asleep?.level === 1);
    return this.#case.hostUnits - offloaded.reduce((total, { units }) => total + units, 0);
  }

  #settle(): void {
    while (true) {
      for (const engine of this.engines) {
        if (engine.closed) this.#end(engine, "refused");
        if (engine.asleep || engine.paused || engine.queue.length === 0) continue;
        this.#end(engine, "served");
        engine.lastUsed = this.#now;
      }
      const next = this.#nextSwitch();
      if (next === undefined) return;
      this.#switchTo(next);
    }
  }

  #end(engine: ModelEngine, outcome: "served" | "refused"): void {
    for (const request of engine.queue) this.outcomes.set(request, outcome);
    engine.queue = [];
  }

  /** The engine whose request has waited longest, or one that needs no eviction. */
  #nextSwitch(): ModelEngine | undefined {
    const waiting = this.engines.filter(
      ({ asleep, paused, queue }) =>
        queue.length > 0 && asleep && !paused && (asleep.reason === "pool" || this.#case.wakeOperatorSleep),
    );
    let isFirst = true;
    for (const engine of waiting.toSorted((a, b) => (a.queue[0] ?? 0) - (b.queue[0] ?? 0))) {
      const sleeps = this.#eviction(engine);
      if (sleeps === undefined) this.#end(engine, "refused");
      else if (isFirst || sleeps.length === 0) return engine;
      else isFirst = false;
    }
    return undefined;
  }

  #switchTo(engine: ModelEngine): void {
    while (true) {
      const [next] = this.#eviction(engine) ?? [];
      if (next === undefined) break;
      if (next.level === undefined) next.engine.left = 0;
      else this.#sleep(next.engine, next.level, "pool");
    }
    this.#wake(engine);
  }

  #wake(engine: ModelEngine): void {
    engine.asleep = undefined;
    engine.left = 0;
    if (!engine.paused) engine.lastUsed = this.#now;
  }

  /** The sleeps that make room; undefined where no choice suffices. */
  #eviction(engine: ModelEngine): readonly Sleep[] | undefined {
    let missing = engine.units - engine.left - this.#free(engine.device);
    if (missing <= 0) return [];
    const others = this.engines.filter((other) => other !== engine && other.device === engine.device);
    const leftovers = others.filter(({ left, closed }) => left > 0 && !closed);
    for (const { left } of leftovers) missing -= left;
    const awake = others
      .filter(({ asleep, paused, closed }) => !asleep && !paused && !closed)
      .toSorted((a, b) => b.units - a.units || a.lastUsed - b.lastUsed);
    const lightest = this.#cheapest(awake, missing, false) ?? this.#cheapest(awake, missing, true);
    return lightest && [...leftovers.map((each) => ({ engine: each, level: undefined })), ...lightest];
  }

  #cheapest(awake: readonly ModelEngine[], missing: number, deeper: boolean): readonly Sleep[] | undefined {
    let best: { readonly cost: number; readonly sleeps: readonly Sleep[] } | undefined;
    for (const sleeps of choices(awake, deeper)) {
      const units = sleeps.reduce((total, { engine }) => total + engine.units, 0);
      const backups = sleeps.reduce(
        (total, { engine, level }) => total + (level === 1 ? engine.units : 0),
        0,
      );
      if (units < missing || backups > this.#hostLeft()) continue;
      const cost = sleeps.filter(({ level }) => level === 2).length * 1e4 + units * 100 + sleeps.length;
      if (best === undefined || cost < best.cost) best = { cost, sleeps };
    }
    return best?.sleeps;
  }
}

/** All ways to put some engines to sleep, those with the first engines first. */
function choices([first, ...others]: readonly ModelEngine[], deeper: boolean): Sleep[][] {
  if (first === undefined) return [[]];
  const rest = choices(others, deeper);
  const levels = deeper && first.reload ? ([1, 2] as const) : ([1] as const);
  return [...levels.flatMap((level) => rest.map((more) => [{ engine: first, level }, ...more])), ...rest];
}
