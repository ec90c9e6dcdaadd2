import type { CaMemAllocator, HostUsage, TagUsage } from "../allocator.ts";
import { CamemError, type CamemErrorCode } from "../errors.ts";
import type { DeviceMemory, SleepController } from "../server/controller.ts";
import type { EngineStatus } from "../server/events.ts";

export interface EngineSnapshot {
  readonly status: EngineStatus;
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
  readonly engines: readonly SleepController[];
  readonly allocator: Pick<CaMemAllocator, "hostUsage">;
  /** Is told why something could not be read. What could not be is left out, so that the rest can be scraped. */
  readonly onFailure: (code: CamemErrorCode) => unknown;
}

const nothingHeld: HostUsage = { pageLockedBytes: 0, freeBytes: 0, preparedBytes: 0 };

function takeSnapshot({ engines, allocator, onFailure }: SnapshotSources): Snapshot {
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
  const devices = engines.flatMap((engine) => read(() => engine.deviceMemory(), []));
  return {
    engines: engines.map((engine) => ({ status: engine.status, tags: read(() => engine.usage(), {}) })),
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
