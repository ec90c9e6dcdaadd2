/** The shim's table of segments, with tags by their names. */

import * as native from "../ffi/native.ts";

export type SegmentState = "mapped" | "offloaded" | "discarded";

/** Segments that are alike in all that decides what becomes of them. */
export interface Portion {
  readonly segments: number;
  /** Bytes of each of them. */
  readonly segmentBytes: number;
  /** Bytes of all of them. */
  readonly sizeBytes: number;
  /** Device memory that they hold now. */
  readonly committedBytes: number;
  /** Page-locked host memory that holds their content. */
  readonly hostBytes: number;
  /** Bytes of checkpoints and of the spill folder that hold their content. */
  readonly fileBytes: number;
  readonly device: number;
  readonly tag: string;
  readonly tagId: number;
  readonly state: SegmentState;
  /** Owned by a plan or a release that is running. */
  readonly moving: boolean;
  /** Asleep, yet they hold device memory: an earlier plan could not give it back, or could not map it again. */
  readonly unreleased: boolean;
  /** Awake, and their backups are the same as their content: to sleep, they are only unmapped. */
  readonly clean: boolean;
  readonly backedUp: boolean;
}

const stateNames = new Map<number, SegmentState>([
  [native.SegmentState.mapped, "mapped"],
  [native.SegmentState.offloaded, "offloaded"],
  [native.SegmentState.discarded, "discarded"],
]);

export function stateName(state: number): SegmentState {
  const name = stateNames.get(state);
  if (name === undefined)
    throw new TypeError(`libcamem.so reported the unknown segment state ${state}: rebuild it`);
  return name;
}

/** The table as planning sees it. */
export interface Summary extends native.PlanBasis {
  readonly portions: readonly Portion[];
}

export class SegmentTable {
  /** Tag numbers of the shim and their names; both are fixed for as long as the shim is attached. */
  readonly #tagIds = new Map<string, number>();
  readonly #tagNames = new Map<number, string>();
  readonly #assertOpen: () => void;

  constructor(assertOpen: () => void) {
    this.#assertOpen = assertOpen;
  }

  /** Whether the tag has been used here. */
  knows(tag: string): boolean {
    return this.#tagIds.has(tag);
  }

  tagId(name: string): number {
    const known = this.#tagIds.get(name);
    if (known !== undefined) return known;
    const id = native.internTag(name);
    this.#tagIds.set(name, id);
    this.#tagNames.set(id, name);
    return id;
  }

  tagName(id: number): string {
    const known = this.#tagNames.get(id);
    if (known !== undefined) return known;
    const name = native.tagName(id);
    this.#tagNames.set(id, name);
    return name;
  }

  /** The sums of each tag in use. */
  usageByTag(): (native.TagUsage & { readonly name: string })[] {
    this.#assertOpen();
    const used = native.usage().filter((usage) => usage.segments > 0);
    return used.map((usage) => ({ ...usage, name: this.tagName(usage.tag) }));
  }

  /** Summed up for planning, without segments that have ids beyond `atMost`. */
  summary(atMost: number = Number.MAX_SAFE_INTEGER): Summary {
    let lastSegmentId = 0;
    const { portions: found, version } = native.portions(atMost);
    const portions = found.map((portion): Portion => {
      lastSegmentId = Math.max(lastSegmentId, portion.lastSegmentId);
      return {
        segments: portion.segments,
        segmentBytes: portion.segmentBytes,
        sizeBytes: portion.segments * portion.segmentBytes,
        committedBytes: portion.committedBytes,
        hostBytes: portion.hostBytes,
        fileBytes: portion.spilledBytes + portion.checkpointBytes,
        device: portion.device,
        tag: this.tagName(portion.tag),
        tagId: portion.tag,
        state: stateName(portion.state),
        moving: portion.moving === 1,
        unreleased: portion.unreleased === 1,
        clean: portion.clean === 1,
        backedUp: portion.backedUp === 1,
      };
    });
    return { portions, lastSegmentId, version };
  }
}
