import type { CaMemAllocator } from "../allocator.ts";
import { CamemError, type CamemErrorCode, isUnusable } from "../errors.ts";
import type { HostUsage, TagUsage } from "../memory/usage.ts";
import type { EngineStatus, RequestCounts } from "../server/engine/events.ts";
import type { DeviceMemory } from "../server/engine/results.ts";
import type { EngineGroup } from "../server/pool/engine-group.ts";
import type { OperationCounts } from "./transitions.ts";

export interface EngineSnapshot {
  readonly status: EngineStatus;
  /** Of the engine and of its pool's queue. */
  readonly requests: RequestCounts;
  /** By the engine's own names; empty after the allocator is closed. */
  readonly tags: Readonly<Record<string, TagUsage>>;
}

/** All values that are read for one scrape. */
export interface Snapshot {
  readonly engines: readonly EngineSnapshot[];
  readonly devices: readonly DeviceMemory[];
  readonly host: HostUsage;
  readonly inFlight: OperationCounts;
  /** How often reading a value has failed, by error code. */
  readonly failures: ReadonlyMap<CamemErrorCode, number>;
}

interface SnapshotSources {
  readonly groups: readonly EngineGroup[];
  readonly allocator: Pick<CaMemAllocator, "hostUsage">;
  readonly inFlight: () => OperationCounts;
}

const noHostUsage: HostUsage = {
  pageLockedBytes: 0,
  freeBytes: 0,
  preparedBytes: 0,
  stagingBytes: 0,
  pageableBytes: 0,
  budget: { sizeBytes: null, source: "unknown", path: null },
};

function requestsOf(group: EngineGroup, { engine, requests }: EngineStatus): RequestCounts {
  const { waiting, refusedTotal } = group.queueOf(engine);
  return {
    ...requests,
    waiting: requests.waiting + waiting,
    refusedTotal: requests.refusedTotal + refusedTotal,
  };
}

/** Reads all values. A value that cannot be read is left out, so that a scrape has the others. */
export class SnapshotReader {
  readonly #sources: SnapshotSources;
  readonly #failures = new Map<CamemErrorCode, number>();
  #latest: Snapshot | undefined;

  constructor(sources: SnapshotSources) {
    this.#sources = sources;
  }

  /** One snapshot for all metrics of a scrape: its values are consistent, and the segment table is copied once. */
  read(): Snapshot {
    if (this.#latest === undefined) {
      this.#latest = this.#readNow();
      queueMicrotask(() => {
        this.#latest = undefined;
      });
    }
    return this.#latest;
  }

  #readNow(): Snapshot {
    const { groups, allocator, inFlight } = this.#sources;
    const engines = groups.flatMap((group) =>
      [...group.engines.values()].map((engine) => ({ engine, group, status: engine.status })),
    );
    const devices = engines.flatMap(({ engine }) => this.#readOr(() => engine.deviceMemory(), []));
    return {
      engines: engines.map(({ engine, group, status }) => ({
        status,
        requests: requestsOf(group, status),
        tags: this.#readOr(() => engine.usage(), {}),
      })),
      devices: [...new Map(devices.map((memory) => [memory.device, memory])).values()],
      host: this.#readOr(() => allocator.hostUsage(), noHostUsage),
      inFlight: inFlight(),
      failures: this.#failures,
    };
  }

  #readOr<T>(read: () => T, fallback: T): T {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof CamemError)) throw error;
      // A closed allocator and an engine that has ended hold no memory, so reading them is no failure.
      if (!isUnusable(error)) this.#failures.set(error.code, (this.#failures.get(error.code) ?? 0) + 1);
      return fallback;
    }
  }
}
