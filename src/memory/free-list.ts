/** A range of a pool's segment, free or in use, linked to its neighbours so that free ones merge. */
export interface Block<Segment> {
  readonly segment: Segment;
  readonly offsetBytes: number;
  sizeBytes: number;
  free: boolean;
  before: Block<Segment> | undefined;
  after: Block<Segment> | undefined;
}

/** Each power of two has this many bins, so that a block is at most a sixteenth larger than the lower bound of its bin. */
const binsPerPower = 16;
const powerOfBins = Math.log2(binsPerPower);

/** Blocks examined in the bin of the wanted size, where some are too small. */
const looksInOwnBin = 16;

/** The bin of blocks of `units`; larger blocks never have a smaller bin. */
function binOf(units: number): number {
  if (units < binsPerPower) return units;
  const power = Math.floor(Math.log2(units));
  const step = 2 ** (power - powerOfBins);
  return (power - powerOfBins + 1) * binsPerPower + Math.floor(units / step) - binsPerPower;
}

/**
 * The free blocks of a pool, binned by size. Adding, removing and finding take constant time: a search examines a bounded
 * number of bins and blocks.
 */
export class FreeList<Segment> {
  readonly #unitBytes: number;
  readonly #bins: (Set<Block<Segment>> | undefined)[] = [];

  /** @param unitBytes the common divisor of all sizes */
  constructor(unitBytes: number) {
    this.#unitBytes = unitBytes;
  }

  add(block: Block<Segment>): void {
    block.free = true;
    const bin = this.#binOf(block);
    const blocks = this.#bins[bin] ?? new Set();
    this.#bins[bin] = blocks;
    blocks.add(block);
  }

  remove(block: Block<Segment>): void {
    block.free = false;
    this.#bins[this.#binOf(block)]?.delete(block);
  }

  /**
   * A block of at least `sizeBytes` in a usable segment: the best of a few blocks of about that size, else any block of the
   * next larger size.
   */
  find(sizeBytes: number, isUsable: (segment: Segment) => boolean): Block<Segment> | undefined {
    const first = binOf(sizeBytes / this.#unitBytes);
    for (let bin = first; bin < this.#bins.length; bin++) {
      const found = this.#bestOf(this.#bins[bin], sizeBytes, bin === first ? looksInOwnBin : 1, isUsable);
      if (found) return found;
    }
    return undefined;
  }

  #bestOf(
    blocks: ReadonlySet<Block<Segment>> | undefined,
    sizeBytes: number,
    looks: number,
    isUsable: (segment: Segment) => boolean,
  ): Block<Segment> | undefined {
    let best: Block<Segment> | undefined;
    let looked = 0;
    for (const block of blocks ?? []) {
      if (!isUsable(block.segment)) continue;
      if (block.sizeBytes >= sizeBytes && (best === undefined || block.sizeBytes < best.sizeBytes))
        best = block;
      if (++looked >= looks && best !== undefined) return best;
      if (looked >= looksInOwnBin) return best;
    }
    return best;
  }

  #binOf(block: Block<Segment>): number {
    return binOf(block.sizeBytes / this.#unitBytes);
  }
}
