/** Chooses the engines that make room for another. Pure: no engine is touched. */

/** Bytes by device. */
export type BytesByDevice = ReadonlyMap<number, number>;

/** A sleep of an engine. */
export interface SleepOption {
  readonly level: 1 | 2;
  /** True when a lighter sleep of the engine exists, so that this one is a last resort. */
  readonly isDeeper: boolean;
  /** Device memory that it gives back. */
  readonly freed: BytesByDevice;
  /** Bytes of new backups. */
  readonly backupBytes: number;
}

/** An engine that can make room. */
export interface Candidate {
  /** True while it has requests in flight. */
  readonly isBusy: boolean;
  readonly lastUsedMs: number;
  /** Its possible sleeps, the lightest first. */
  readonly sleeps: readonly SleepOption[];
}

/** A candidate and how it sleeps. */
export interface Victim<C extends Candidate> {
  readonly candidate: C;
  readonly sleep: SleepOption;
}

/**
 * Compared from left to right: sleeps deeper than the lightest, busy engines, bytes put to sleep, engines.
 * Fewer are better.
 */
type Cost = readonly [deeper: number, busy: number, bytes: number, engines: number];

/** Beyond this many steps, the best choice found so far counts. It suffices to compare every choice among 12 engines. */
const searchLimit = 20_000;

/**
 * The cheapest choice that frees the missing bytes on every short device and whose backups fit in `backupRoomBytes`; undefined
 * where there is none. Among equal choices, the least recently used engines sleep.
 */
export function chooseVictims<C extends Candidate>(
  missing: BytesByDevice,
  candidates: readonly C[],
  backupRoomBytes: number,
): readonly Victim<C>[] | undefined {
  const search = new Search(missing, candidates);
  search.visit(0, missing, backupRoomBytes, [0, 0, 0, 0], []);
  return search.best?.victims;
}

export function sumOf(bytes: BytesByDevice): number {
  return [...bytes.values()].reduce((sum, each) => sum + each, 0);
}

/** What is missing after `freed` has become free; without the devices that are no longer short. */
export function lessMissing(missing: BytesByDevice, freed: BytesByDevice): BytesByDevice {
  const rest = [...missing].map(([device, bytes]) => [device, bytes - (freed.get(device) ?? 0)] as const);
  return new Map(rest.filter(([, bytes]) => bytes > 0));
}

/** True when a sleep frees memory on a device that is short. */
export function helps(missing: BytesByDevice, freed: BytesByDevice): boolean {
  return [...missing.keys()].some((device) => (freed.get(device) ?? 0) > 0);
}

/** The most that a candidate frees on a device. */
export function mostFreed({ sleeps }: Candidate, device: number): number {
  return Math.max(0, ...sleeps.map(({ freed }) => freed.get(device) ?? 0));
}

/** Visits choices depth first, and skips those that cannot beat the best so far. */
class Search<C extends Candidate> {
  best: { readonly cost: Cost; readonly victims: readonly Victim<C>[] } | undefined;
  readonly #candidates: readonly C[];
  /** By index: the most that this candidate and all later ones free, by device. */
  readonly #mostFreed: BytesByDevice[];
  #steps = 0;

  constructor(missing: BytesByDevice, candidates: readonly C[]) {
    const useful = candidates.filter(({ sleeps }) => sleeps.some(({ freed }) => helps(missing, freed)));
    this.#candidates = useful.toSorted(byPreference);
    this.#mostFreed = [new Map([...missing].map(([device]) => [device, 0]))];
    for (const candidate of this.#candidates.toReversed()) {
      const [later] = this.#mostFreed;
      const sums = [...(later ?? [])].map(
        ([device, bytes]) => [device, bytes + mostFreed(candidate, device)] as const,
      );
      this.#mostFreed.unshift(new Map(sums));
    }
  }

  visit(
    index: number,
    missing: BytesByDevice,
    roomBytes: number,
    cost: Cost,
    victims: readonly Victim<C>[],
  ): void {
    if (++this.#steps > searchLimit) return;
    const [deeper, busy, bytes, engines] = cost;
    const bound: Cost = [deeper, busy, bytes + sumOf(missing), engines + Number(missing.size > 0)];
    if (this.best && compareCosts(bound, this.best.cost) >= 0) return;
    if (missing.size === 0) {
      this.best = { cost, victims };
      return;
    }
    const candidate = this.#candidates[index];
    const most = this.#mostFreed[index];
    if (candidate === undefined || [...missing].some(([device, needed]) => (most?.get(device) ?? 0) < needed))
      return;
    for (const sleep of candidate.sleeps) {
      if (sleep.backupBytes > roomBytes || !helps(missing, sleep.freed)) continue;
      const added: Cost = [
        deeper + Number(sleep.isDeeper),
        busy + Number(candidate.isBusy),
        bytes + sumOf(sleep.freed),
        engines + 1,
      ];
      const room = roomBytes - sleep.backupBytes;
      this.visit(index + 1, lessMissing(missing, sleep.freed), room, added, [
        ...victims,
        { candidate, sleep },
      ]);
    }
    this.visit(index + 1, missing, roomBytes, cost, victims);
  }
}

function compareCosts(a: Cost, b: Cost): number {
  for (const [index, each] of a.entries()) {
    const difference = each - (b[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** Idle engines first, then large ones, then those that were not used for longest: the first choice found needs few engines. */
function byPreference(a: Candidate, b: Candidate): number {
  return (
    Number(a.isBusy) - Number(b.isBusy) || largestSleep(b) - largestSleep(a) || a.lastUsedMs - b.lastUsedMs
  );
}

function largestSleep({ sleeps }: Candidate): number {
  return Math.max(...sleeps.map(({ freed }) => sumOf(freed)));
}
