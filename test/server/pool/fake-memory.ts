import { CamemError, type SleepReport, type TransitionPlan, type WakeReport } from "camem";
import type { ControlledAllocator } from "camem/server";

interface Memory {
  readonly device: number;
  readonly units: number;
  state: "mapped" | "offloaded" | "discarded";
  /** Units that stay on the device although the memory is asleep. */
  left: number;
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);

/**
 * Memory that is only counted, in units. It moves as an allocator's does, and fails where that would exceed a device or the host
 * budget. Fault model: the first release after `failRelease` leaves its memory on the device.
 */
export class FakeMemory implements ControlledAllocator {
  readonly device = 0;
  readonly memories = new Map<string, Memory>();
  failRelease = false;
  /** Called before memory of a tag moves. */
  onMove: (tag: string) => void = () => undefined;
  readonly #totals: readonly number[];
  readonly #hostUnits: number;

  constructor(totals: readonly number[], hostUnits: number) {
    this.#totals = totals;
    this.#hostUnits = hostUnits;
  }

  defineTag(): void {
    // Policies are fixed: level 1 offloads, level 2 discards.
  }

  usage() {
    const entries = [...this.memories].map(([tag, { state, units }]) => {
      const discardedBytes = state === "discarded" ? units : 0;
      const usage = { mappedBytes: 0, hostBytes: 0, spilledBytes: 0, checkpointBytes: 0, segments: 1 };
      return [tag, { ...usage, discardedBytes, state: state === "mapped" ? "awake" : "asleep" } as const];
    });
    return Object.fromEntries(entries);
  }

  memGetInfo(device = 0) {
    return { freeBytes: this.freeUnits(device), totalBytes: this.#totals[device] ?? 0 };
  }

  freeUnits(device: number): number {
    const held = [...this.memories.values()].filter((memory) => memory.device === device);
    const heldUnits = sum(held.map(({ state, units, left }) => (state === "mapped" ? units : left)));
    return (this.#totals[device] ?? 0) - heldUnits;
  }

  plan(
    operation: "sleep" | "wake",
    options: { readonly level?: number | undefined; readonly tags?: readonly string[] | undefined } = {},
  ): TransitionPlan {
    const concerned = [...this.memories].filter(([tag]) => options.tags?.includes(tag) ?? true);
    return operation === "wake" ? this.#planWake(concerned) : this.#planSleep(concerned, options.level ?? 1);
  }

  async sleep({ level = 1, tags, signal }: Parameters<ControlledAllocator["sleep"]>[0] = {}) {
    await this.#take(signal);
    const plan = this.plan("sleep", { level, tags });
    if (!plan.fits) throw new CamemError("HOST_BUDGET_EXCEEDED", "the fake host budget is exceeded");
    let isLeft = false;
    for (const tag of Object.keys(plan.tags)) {
      const memory = this.#memory(tag);
      this.onMove(tag);
      isLeft = memory.state === "mapped" && this.failRelease;
      if (isLeft) this.failRelease = false;
      memory.left = isLeft ? memory.units : 0;
      memory.state = level === 2 || memory.state === "discarded" ? "discarded" : "offloaded";
    }
    if (isLeft)
      throw new CamemError("ACL_CALL_FAILED", "the fake device kept memory", { transitionComplete: true });
    return {} as SleepReport;
  }

  async wakeUp({ tags, signal }: Parameters<ControlledAllocator["wakeUp"]>[0] = {}) {
    await this.#take(signal);
    const plan = this.plan("wake", { tags });
    if (!plan.fits) throw new CamemError("OUT_OF_DEVICE_MEMORY", "the fake device is full");
    for (const tag of Object.keys(plan.tags)) {
      this.onMove(tag);
      Object.assign(this.#memory(tag), { state: "mapped", left: 0 });
    }
    return {} as WakeReport;
  }

  #memory(tag: string): Memory {
    const memory = this.memories.get(tag);
    if (memory === undefined) throw new Error(`there is no tag ${tag}`);
    return memory;
  }

  /** A transition takes some turns of the event loop's microtasks. */
  async #take(signal: AbortSignal | undefined): Promise<void> {
    for (let turn = 0; turn < 3; turn++) {
      if (signal?.aborted) throw new CamemError("ABORTED", "the signal was aborted");
      await Promise.resolve();
    }
  }

  #planWake(concerned: readonly [string, Memory][]): TransitionPlan {
    const asleep = concerned.filter(([, { state }]) => state !== "mapped");
    const devices = this.#totals.flatMap((_, device) => {
      const here = asleep.filter(([, memory]) => memory.device === device);
      const neededBytes = sum(here.map(([, { units, left }]) => units - left));
      return here.length > 0 ? [{ device, neededBytes, freeBytes: this.freeUnits(device) }] : [];
    });
    const tags = asleep.map(([tag, { units, state }]) => {
      const isLost = state === "discarded";
      const restoreBytes = isLost ? 0 : units;
      return [tag, { offloadBytes: 0, discardBytes: 0, restoreBytes, remapBytes: isLost ? units : 0 }];
    });
    return {
      tags: Object.fromEntries(tags),
      devices,
      freed: [],
      host: this.#host(0),
      spill: null,
      fits: devices.every(({ neededBytes, freeBytes }) => neededBytes <= freeBytes),
    };
  }

  #planSleep(concerned: readonly [string, Memory][], level: number): TransitionPlan {
    const offloads = ({ state }: Memory) => state === "mapped" && level === 1;
    const discards = ({ state }: Memory) => state !== "discarded" && level === 2;
    const moved = concerned.filter(([, memory]) => offloads(memory) || discards(memory) || memory.left > 0);
    const tags = moved.map(([tag, memory]) => {
      const offloadBytes = offloads(memory) ? memory.units : 0;
      const discardBytes = discards(memory) ? memory.units : 0;
      return [tag, { offloadBytes, discardBytes, restoreBytes: 0, remapBytes: 0 }];
    });
    const freed = this.#totals.map((_, device) => {
      const here = moved.filter(([, memory]) => memory.device === device);
      const units = here.map(([, { state, units, left }]) => (state === "mapped" ? units : left));
      return { device, freedBytes: sum(units) };
    });
    const neededBytes = sum(moved.map(([, memory]) => (offloads(memory) ? memory.units : 0)));
    return {
      tags: Object.fromEntries(tags),
      devices: [],
      freed: freed.filter(({ freedBytes }) => freedBytes > 0),
      host: this.#host(neededBytes),
      spill: null,
      fits: neededBytes <= this.#hostLeft(),
    };
  }

  #host(neededBytes: number): TransitionPlan["host"] {
    const budget = { sizeBytes: this.#hostUnits, source: "option", path: null } as const;
    return { neededBytes, freeBytes: this.#hostLeft(), budget };
  }

  #hostLeft(): number {
    const offloaded = [...this.memories.values()].filter(({ state }) => state === "offloaded");
    return this.#hostUnits - sum(offloaded.map(({ units }) => units));
  }
}
