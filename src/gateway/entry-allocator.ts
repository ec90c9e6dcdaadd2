/** The memory of an engine that the gateway starts when it is needed. */

import { CamemError } from "../errors.ts";
import type { HostUsage, TagUsage } from "../memory/usage.ts";
import { defaultTag } from "../policy/tag-names.ts";
import type { SleepSelection } from "../policy/tag-policies.ts";
import type { EngineConnection } from "../run/attachable-allocator.ts";
import { emptyPlan, noHostUsage } from "../run/no-memory.ts";
import { sleepReport, wakeReport } from "../run/reports.ts";
import type { ControlledAllocator } from "../server/engine/engine-tags.ts";
import type { TagPlan, TransitionPlan } from "../transition/preflight.ts";
import type { SleepReport, WakeReport } from "../transition/reports.ts";
import type { EngineSource } from "./engine-source.ts";

type MemGetInfo = ControlledAllocator["memGetInfo"];
type SleepOptions = Parameters<ControlledAllocator["sleep"]>[0];
type WakeOptions = Parameters<ControlledAllocator["wakeUp"]>[0];

interface EntryOptions {
  readonly name: string;
  readonly source: EngineSource;
  readonly devices: readonly number[];
  /** Bytes on each device, where they are known before the engine has run. */
  readonly memoryBytes: number | undefined;
  /** Free and total memory of a device, by any engine that runs; undefined where none does. */
  readonly deviceMemory: (device: number) => ReturnType<MemGetInfo> | undefined;
}

const noBytes: TagPlan = { offloadBytes: 0, discardBytes: 0, restoreBytes: 0, remapBytes: 0 };

/**
 * An engine that does not run counts as asleep: its wake-up starts it. Level 1 moves memory off the device. Level 2 ends the
 * program, where the gateway can start it again.
 */
export class EntryAllocator implements ControlledAllocator {
  readonly #options: EntryOptions;
  #state: "new" | "stopped" | "running" = "new";
  #connection: EngineConnection | undefined;
  /** Since its last start. */
  #hasEnded = false;
  /** What the engine took of each device when it was last awake. */
  #measured: ReadonlyMap<number, number> | undefined;

  constructor(options: EntryOptions) {
    this.#options = options;
  }

  get isRunning(): boolean {
    return this.#state === "running";
  }

  /** True when the size of its memory is known. */
  get isMeasured(): boolean {
    return this.#measured !== undefined || this.#options.memoryBytes !== undefined;
  }

  /** Forgets an engine that has ended. */
  async noteEnd(): Promise<void> {
    this.#hasEnded = true;
    if (this.#state === "running") this.#state = "stopped";
    const connection = this.#connection;
    this.#connection = undefined;
    await connection?.close();
  }

  get device(): number {
    return this.#options.devices[0] ?? 0;
  }

  /** Bytes on the device, on the host and in files; what does not run is asleep without content. */
  usage(): Record<string, TagUsage> {
    if (this.#state === "new") return {};
    if (this.#state === "running") return this.#connection?.usage() ?? { [defaultTag]: usageOf("awake", 0) };
    return { [defaultTag]: usageOf("asleep", this.#sizeBytes) };
  }

  hostUsage(): HostUsage {
    return this.#connection?.hostUsage() ?? noHostUsage;
  }

  /** The memory of a device as this engine sees it; undefined where it does not run or cannot tell. */
  ownDeviceMemory(device: number): ReturnType<MemGetInfo> | undefined {
    try {
      return this.#connection?.memGetInfo(device);
    } catch (error) {
      if (error instanceof CamemError) return undefined;
      throw error;
    }
  }

  readonly memGetInfo: MemGetInfo = (device = this.device) => {
    const memory = this.ownDeviceMemory(device) ?? this.#options.deviceMemory(device);
    if (memory !== undefined) return memory;
    throw new CamemError(
      "ENGINE_UNAVAILABLE",
      `no engine runs that could tell the memory of device ${device}`,
    );
  };

  readonly defineTag: ControlledAllocator["defineTag"] = (tag, policy) =>
    this.#connection?.defineTag(tag, policy);

  readonly plan: ControlledAllocator["plan"] = (
    operation: "sleep" | "wake",
    options: SleepSelection = {},
  ) => {
    if (this.#state !== "running") return operation === "wake" ? this.#planStart() : emptyPlan;
    const connection = this.#connection;
    if (operation === "wake") return connection?.plan("wake", pickTags(options)) ?? emptyPlan;
    if (options.level !== 2 && connection !== undefined)
      return connection.plan("sleep", { level: 1, ...pickTags(options) });
    if (!this.#options.source.canStop) return emptyPlan;
    const freed = connection?.plan("sleep", { level: 1 }).freed ?? [];
    return { ...planOf({ [defaultTag]: { ...noBytes, discardBytes: Math.max(1, this.#sizeBytes) } }), freed };
  };

  async sleep(options: SleepOptions = {}): Promise<SleepReport> {
    const { level = 1, ...rest } = options;
    const { source } = this.#options;
    if (this.#state !== "running") {
      this.#state = "stopped";
      return sleepReport(level, 0, true);
    }
    this.#measure();
    const connection = this.#connection;
    if (level !== 2 && connection !== undefined) return connection.sleep({ ...rest, level: 1 });
    if (!source.canStop)
      throw new CamemError(
        "ENGINE_UNAVAILABLE",
        `the engine ${this.#options.name} can sleep at level 1 only, since camem has not started it`,
      );
    const sizeBytes = this.#sizeBytes;
    this.#state = "stopped";
    await this.noteEnd();
    await source.stop();
    return sleepReport(level, sizeBytes, false);
  }

  async wakeUp(options: WakeOptions = {}): Promise<WakeReport> {
    if (this.#state === "running") {
      if (this.#connection !== undefined) return this.#connection.wakeUp(options);
      return wakeReport(0, true);
    }
    const { signal = new AbortController().signal } = options;
    this.#hasEnded = false;
    const connection = await this.#options.source.start(signal);
    // Nobody would learn of an end that came before it counted as running.
    if (this.#hasEnded) {
      await connection?.close();
      throw new CamemError("ENGINE_UNAVAILABLE", `the engine ${this.#options.name} ended while it started`);
    }
    this.#connection = connection;
    this.#state = "running";
    // It may have slept before the gateway found it.
    await this.#connection?.wakeUp({ signal });
    this.#measure();
    return wakeReport(this.#sizeBytes, false);
  }

  /** Starting needs what the engine took before, and is refused while it must not be tried again. */
  #planStart(): TransitionPlan {
    const { name, source, devices, memoryBytes = 0, deviceMemory } = this.#options;
    const { retryInMs } = source;
    if (retryInMs > 0) {
      const retryAfterSeconds = Math.ceil(retryInMs / 1000);
      const message = `the engine ${name} has ended unexpectedly; it is started again in ${retryAfterSeconds} s at the earliest`;
      throw new CamemError("ENGINE_UNAVAILABLE", message, { retryAfterSeconds });
    }
    const needs = this.#measured ?? new Map(devices.map((device) => [device, memoryBytes]));
    const plans = [...needs].map(([device, neededBytes]) => ({
      device,
      neededBytes,
      // Where no engine runs, nobody of this gateway holds memory of the device.
      freeBytes: deviceMemory(device)?.freeBytes ?? Number.MAX_SAFE_INTEGER,
    }));
    const tags = { [defaultTag]: { ...noBytes, restoreBytes: this.#sizeBytes } };
    return {
      ...planOf(tags),
      devices: plans,
      fits: plans.every((plan) => plan.neededBytes <= plan.freeBytes),
    };
  }

  #measure(): void {
    const freed = this.#connection?.plan("sleep", { level: 1 }).freed ?? [];
    // Memory that is asleep already would be missing.
    const isAwake = Object.values(this.usage()).every(({ state }) => state === "awake");
    if (isAwake && freed.length > 0)
      this.#measured = new Map(freed.map(({ device, freedBytes }) => [device, freedBytes]));
  }

  get #sizeBytes(): number {
    const { devices, memoryBytes = 0 } = this.#options;
    if (this.#measured === undefined) return memoryBytes * devices.length;
    return [...this.#measured.values()].reduce((sum, bytes) => sum + bytes, 0);
  }
}

function pickTags({ tags }: SleepSelection): { readonly tags?: readonly string[] } {
  return tags === undefined ? {} : { tags };
}

function usageOf(state: TagUsage["state"], discardedBytes: number): TagUsage {
  const bytes = {
    mappedBytes: 0,
    hostBytes: 0,
    pageableBytes: 0,
    spilledBytes: 0,
    checkpointBytes: 0,
    discardedBytes,
  };
  return { ...bytes, segments: 0, state };
}

function planOf(tags: TransitionPlan["tags"]): TransitionPlan {
  return { ...emptyPlan, tags };
}
