import type { CaMemAllocator } from "../allocator.ts";
import { CamemError, type CamemErrorCode } from "../errors.ts";
import type { HostUsage, TagUsage } from "../memory/usage.ts";
import type { DeviceMemory } from "../server/engine/controller.ts";
import type { EngineStatus, RequestCounts } from "../server/engine/events.ts";
import type { EngineGroup } from "../server/pool/engine-group.ts";

export interface EngineSnapshot {
  readonly status: EngineStatus;
  /** Those of the engine, and those that its pool holds or has refused. */
  readonly requests: RequestCounts;
  /** By the engine's own names; empty once the allocator is closed. */
  readonly tags: Readonly<Record<string, TagUsage>>;
}

/** Everything that gauges tell, at one moment. */
export interface Snapshot {
  readonly engines: readonly EngineSnapshot[];
  readonly devices: readonly DeviceMemory[];
  readonly host: HostUsage;
}

export interface SnapshotSources {
  readonly groups: readonly EngineGroup[];
  readonly allocator: Pick<CaMemAllocator, "hostUsage">;
  /** Is told why something could not be read. What could not be is left out, so that the rest can be scraped. */
  readonly onFailure: (code: CamemErrorCode) => unknown;
}

const nothingHeld: HostUsage = { pageLockedBytes: 0, freeBytes: 0, preparedBytes: 0 };

function requestsOf(group: EngineGroup, { engine, requests }: EngineStatus): RequestCounts {
  const { waiting, refusedTotal } = group.queueOf(engine);
  return {
    ...requests,
    waiting: requests.waiting + waiting,
    refusedTotal: requests.refusedTotal + refusedTotal,
  };
}

function takeSnapshot({ groups, allocator, onFailure }: SnapshotSources): Snapshot {
  const read = <T>(run: () => T, otherwise: T): T => {
    try {
      return run();
    } catch (error) {
      if (!(error instanceof CamemError)) throw error;
      // A closed allocator holds nothing, which is no failure.
      if (error.code !== "CLOSED") onFailure(error.code);
      return otherwise;
    }
  };
  const engines = groups.flatMap((group) =>
    [...group.engines.values()].map((engine) => ({ engine, group, status: engine.status })),
  );
  const devices = engines.flatMap(({ engine }) => read(() => engine.deviceMemory(), []));
  return {
    engines: engines.map(({ engine, group, status }) => ({
      status,
      requests: requestsOf(group, status),
      tags: read(() => engine.usage(), {}),
    })),
    devices: [...new Map(devices.map((memory) => [memory.device, memory])).values()],
    host: read(() => allocator.hostUsage(), nothingHeld),
  };
}

/**
 * A function that looks once for all that ask in one go, as the metrics of one scrape do: numbers that are read together belong
 * together, and the table of segments is copied once.
 */
export function snapshotOncePerScrape(sources: SnapshotSources): () => Snapshot {
  let latest: Snapshot | undefined;
  return () => {
    if (latest === undefined) {
      latest = takeSnapshot(sources);
      queueMicrotask(() => {
        latest = undefined;
      });
    }
    return latest;
  };
}
