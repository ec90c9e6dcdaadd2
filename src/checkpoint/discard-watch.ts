import { CamemError, formatValue } from "../errors.ts";
import type { DeviceBuffer } from "../memory/buffer.ts";

/** Notices sleeps that discard the content of buffers, also if the memory is awake again. */
export class DiscardWatch {
  readonly #segments = new Map<number, { readonly buffer: DeviceBuffer; readonly discards: number }>();

  /** @throws CamemError `BUFFER_FREED` or `CLOSED` */
  constructor(buffers: Iterable<DeviceBuffer>) {
    for (const buffer of buffers) {
      const { segmentId } = buffer.place.segment;
      if (!this.#segments.has(segmentId))
        this.#segments.set(segmentId, { buffer, discards: buffer.discards });
    }
  }

  /** How often the content of a watched segment had been discarded when the watch began. */
  discardsOf(segmentId: number): number {
    const watched = this.#segments.get(segmentId);
    if (watched === undefined) throw new TypeError("a segment is not watched: a bug of camem's");
    return watched.discards;
  }

  /** @throws CamemError `BUFFER_ASLEEP` once content has been discarded; `BUFFER_FREED` or `CLOSED` */
  assertKept(path: string): void {
    for (const { buffer, discards } of this.#segments.values())
      if (buffer.discards !== discards)
        throw new CamemError(
          "BUFFER_ASLEEP",
          `a sleep discarded memory under the tag ${formatValue(buffer.tag)} while ${path} was being loaded into it; wake it up and load the checkpoint again`,
          { address: buffer.ptr },
        );
  }
}
