/** The shim's table of segments, with tags by name. */

import * as native from "../ffi/index.ts";
import type { BufferState } from "./buffer.ts";

export type SegmentState = "mapped" | "offloaded" | "discarded";

/** Segments that are alike in everything that decides how a transition treats them. */
export interface SegmentGroup {
  readonly segments: number;
  /** Bytes of each segment. */
  readonly segmentBytes: number;
  /** Bytes of all segments together. */
  readonly sizeBytes: number;
  /** Device memory that they hold now. */
  readonly committedBytes: number;
  /** Host memory that holds their content, page-locked or not. */
  readonly hostBytes: number;
  /** Bytes of checkpoints and of the spill folder that hold their content. */
  readonly fileBytes: number;
  readonly device: number;
  readonly tag: string;
  readonly tagId: number;
  readonly state: SegmentState;
  /** A running plan or release owns them. */
  readonly moving: boolean;
  /** Asleep, yet holding device memory: an earlier plan could not give it back, or could not map it again. */
  readonly unreleased: boolean;
  /** Awake, with backups that equal their content: a sleep only unmaps them. */
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
export interface TableSummary extends native.PlanBasis {
  readonly groups: readonly SegmentGroup[];
}

export class SegmentTable {
  /** Both directions are fixed for as long as the shim is attached. */
  readonly #tagIds = new Map<string, number>();
  readonly #tagNames = new Map<number, string>();
  readonly #native: native.Native;
  readonly #assertOpen: () => void;

  constructor(shim: native.Native, assertOpen: () => void) {
    this.#native = shim;
    this.#assertOpen = assertOpen;
  }

  /** True when this Worker, another one or a native thread has used or defined the tag. */
  knows(tag: string): boolean {
    this.#assertOpen();
    return this.#tagIds.has(tag) || this.#native.isTag(tag);
  }

  tagId(name: string): number {
    const known = this.#tagIds.get(name);
    if (known !== undefined) return known;
    const id = this.#native.internTag(name);
    this.#tagIds.set(name, id);
    this.#tagNames.set(id, name);
    return id;
  }

  tagName(id: number): string {
    const known = this.#tagNames.get(id);
    if (known !== undefined) return known;
    const name = this.#native.tagName(id);
    this.#tagNames.set(id, name);
    return name;
  }

  /** The sums of each tag that has segments. */
  tagsInUse(): (native.TagUsage & { readonly name: string })[] {
    this.#assertOpen();
    const used = this.#native.usage().filter((usage) => usage.segments > 0);
    return used.map((usage) => ({ ...usage, name: this.tagName(usage.tag) }));
  }

  stateOf(segment: native.SegmentName): BufferState {
    const info = this.#native.segmentInfo(segment);
    if (info === undefined || info.doomed === 1) return "freed";
    return info.moving === 1 ? "moving" : stateName(info.state);
  }

  /** Sums for planning, of segments with ids up to `lastSegmentId`. */
  summary(lastSegmentId: number = Number.MAX_SAFE_INTEGER): TableSummary {
    let newestSegmentId = 0;
    const { groups: found, version } = this.#native.segmentGroups(lastSegmentId);
    const groups = found.map((group): SegmentGroup => {
      newestSegmentId = Math.max(newestSegmentId, group.lastSegmentId);
      return {
        segments: group.segments,
        segmentBytes: group.segmentBytes,
        sizeBytes: group.segments * group.segmentBytes,
        committedBytes: group.committedBytes,
        hostBytes: group.hostBytes + group.pageableBytes,
        fileBytes: group.spilledBytes + group.checkpointBytes,
        device: group.device,
        tag: this.tagName(group.tag),
        tagId: group.tag,
        state: stateName(group.state),
        moving: group.moving === 1,
        unreleased: group.unreleased === 1,
        clean: group.clean === 1,
        backedUp: group.backedUp === 1,
      };
    });
    return { groups, lastSegmentId: newestSegmentId, version };
  }
}
