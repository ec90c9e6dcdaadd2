/** What a controller's calls do, as a naive model: each call takes effect at once, and no call fails. */

export type TagName = "weights" | "kv_cache" | "buffers" | "adapters";
export type Level = 0 | 1 | 2;
export type Reason = "operator" | "idle";

export const tagNames: readonly TagName[] = ["weights", "kv_cache", "buffers", "adapters"];

/** What a level does to a tag that is awake: `host` keeps its content. */
const places: Readonly<Record<TagName, readonly ["host" | "nowhere", "host" | "nowhere"]>> = {
  weights: ["host", "nowhere"],
  kv_cache: ["nowhere", "nowhere"],
  buffers: ["host", "host"],
  adapters: ["host", "nowhere"],
};

interface Asleep {
  readonly level: 1 | 2;
  readonly place: "host" | "nowhere";
}

export class ControllerModel {
  readonly asleep = new Map<TagName, Asleep>();
  sleep: { readonly level: Level; readonly reason: Reason } | undefined;
  paused = false;
  /** The weights are awake, or were when they fell asleep again, and their content is lost. */
  isAwaiting = false;
  readonly #reloads: boolean;
  readonly #wakes: boolean;

  constructor(options: { readonly reloads: boolean; readonly wakes: boolean }) {
    this.#reloads = options.reloads;
    this.#wakes = options.wakes;
  }

  get state(): "asleep" | "paused" | "awaiting-weights" | "awake" {
    if (this.asleep.size > 0) return "asleep";
    if (this.paused || this.sleep !== undefined) return "paused";
    return this.isAwaiting ? "awaiting-weights" : "awake";
  }

  /** What {@link SleepController.status} has of this. */
  get status() {
    return {
      state: this.state,
      level: this.sleep?.level ?? null,
      reason: this.sleep?.reason ?? null,
      sleepingTags: [...this.asleep.keys()].sort(),
      awaitingTags: this.isAwaiting ? ["weights"] : [],
      paused: this.paused,
    };
  }

  /** The code that a sleep is refused with. */
  refusalOfSleep(level: Level, names: readonly TagName[]): "STATE_CONFLICT" | undefined {
    const isGone = this.asleep.get("weights")?.place === "nowhere";
    return level === 1 && isGone && names.includes("weights") ? "STATE_CONFLICT" : undefined;
  }

  fallAsleep(level: Level, names: readonly TagName[], reason: Reason): void {
    if (level > 0) for (const name of names) this.#put(name, level === 2 ? 2 : 1);
    const recorded = this.sleep?.reason === "operator" ? "operator" : reason;
    this.sleep = { level: this.#levelAsleep() ?? level, reason: recorded };
  }

  wakeUp(names: readonly TagName[]): void {
    if (this.sleep !== undefined && this.asleep.size === 0) {
      this.sleep = undefined;
      return;
    }
    for (const [name, { place }] of [...this.asleep]) {
      const follows = names.includes("weights") && place === "host" && name !== "kv_cache";
      if (!names.includes(name) && !follows) continue;
      this.asleep.delete(name);
      if (name === "weights" && place === "nowhere") this.isAwaiting = true;
    }
    const level = this.#levelAsleep();
    this.sleep = level && this.sleep && { level, reason: this.sleep.reason };
    if (this.#reloads && !this.asleep.has("weights")) this.isAwaiting = false;
  }

  resume(): void {
    this.paused = false;
    if (this.sleep?.level === 0) this.sleep = undefined;
  }

  refusalOfConfirmation(): "STATE_CONFLICT" | undefined {
    const weights = this.asleep.get("weights");
    return weights && (weights.place === "nowhere" || this.isAwaiting) ? "STATE_CONFLICT" : undefined;
  }

  confirmWeights(): void {
    this.isAwaiting = false;
  }

  /** Returns whether a request is served; one that wakes the engine wakes all of it. */
  request(): boolean {
    if (this.state === "awake") return true;
    if (this.paused || !this.#wakes || this.sleep?.reason === "operator") return false;
    const isLost = this.isAwaiting || this.asleep.get("weights")?.place === "nowhere";
    if (isLost && !this.#reloads) return false;
    Object.assign(this, { sleep: undefined, isAwaiting: false });
    this.asleep.clear();
    return true;
  }

  #put(name: TagName, level: 1 | 2): void {
    const before = this.asleep.get(name);
    const place = before?.place === "nowhere" ? "nowhere" : places[name][level - 1];
    this.asleep.set(name, { level: before?.level === 2 ? 2 : level, place: place ?? "nowhere" });
  }

  /** The level of the weights, or the deepest of the others where they are awake. */
  #levelAsleep(): 1 | 2 | undefined {
    const weights = this.asleep.get("weights");
    if (weights !== undefined) return weights.level;
    const levels = [...this.asleep.values()].map(({ level }) => level);
    return levels.includes(2) ? 2 : levels[0];
  }
}
