/**
 * The documented behaviour of the allocator in its simplest form: a list of segments, each on the device, on the host or
 * nowhere, and a list of buffers with the bytes written to them. It shares no code with the package. The model does not predict
 * where a pool places a buffer or which legal outcome a race has; the harness reports it.
 */

export type Place = "device" | "host" | "nowhere";
export type Fate = "keep" | "offload" | "discard";
type Level = 0 | 1 | 2;
export interface SleepRequest {
  level?: Level;
  offloadTags?: string[];
  tags?: string[];
}
export interface WakeRequest {
  tags?: string[];
  zero?: boolean;
}

export interface ModelSegment {
  readonly address: number;
  readonly sizeBytes: number;
  readonly tag: string;
  readonly device: number;
  /** Whether a `MemoryPool` carves buffers out of it. */
  readonly pooled: boolean;
  place: Place;
  /** Its content is immutable: writes throw, and a wake-up keeps the backup. */
  immutable: boolean;
  /** It has a backup: on the host, or of immutable content that is on the device. */
  backedUp: boolean;
}

interface Extent {
  readonly offset: number;
  readonly end: number;
}

export interface ModelBuffer {
  readonly segment: ModelSegment;
  readonly address: number;
  readonly sizeBytes: number;
  readonly bytes: Uint8Array;
  /** The bytes that are defined; all others may have any value. */
  known: Extent[];
}

/** A deliberate mistake of the model, to show that the driver detects it. */
export type Mistake =
  | "forgets that buffers are kept at level 2"
  | "forgets a byte"
  | "forgets that immutable content has a backup";

export interface ModelOptions {
  readonly deviceCount: number;
  readonly deviceBytes: number;
  readonly hostBudgetBytes: number;
  readonly poolSegmentBytes: number;
  /** Whether backups beyond the host budget spill to disk; the model counts them as on the host. */
  readonly spills: boolean;
  /** Whether backups that AscendCL refuses to page-lock stay in ordinary memory; the model counts them as on the host. */
  readonly pageable: boolean;
  readonly mistake: Mistake | undefined;
}

const granularity = 2 * 2 ** 20;
const alignment = 512;
const roundUp = (value: number, multiple: number) => Math.ceil(value / multiple) * multiple;
const sum = (segments: readonly ModelSegment[]) =>
  segments.reduce((total, segment) => total + segment.sizeBytes, 0);
const tagsOf = (segments: readonly ModelSegment[]) => [...new Set(segments.map((segment) => segment.tag))];

export class Model {
  readonly options: ModelOptions;
  segments: ModelSegment[] = [];
  buffers: ModelBuffer[] = [];
  readonly policies: Record<string, { 1: Fate; 2: Fate; immutable?: boolean; zero?: boolean }>;

  constructor(options: ModelOptions) {
    this.options = options;
    const forgets = options.mistake === "forgets that buffers are kept at level 2";
    this.policies = {
      weights: { 1: "offload", 2: "discard" },
      buffers: { 1: "offload", 2: forgets ? "discard" : "offload" },
      kv_cache: { 1: "discard", 2: "discard" },
      default: { 1: "discard", 2: "discard" },
    };
  }

  defineTag(tag: string, policy: { 1?: Fate; 2?: Fate; immutable?: boolean; zero?: boolean }): void {
    const was = this.isImmutable(tag);
    this.policies[tag] = { 1: "discard", 2: "discard", ...this.policies[tag], ...policy };
    if (!was && policy.immutable)
      for (const segment of this.#tagged(tag)) segment.immutable = segment.place !== "nowhere";
    if (was && policy.immutable === false) this.markDirty(tag);
  }

  isImmutable(tag: string): boolean {
    return this.policies[tag]?.immutable ?? false;
  }

  /** The code with which immutable content of a tag refuses to become writable. */
  dirtyRefusal(tag: string): "BUFFER_ASLEEP" | undefined {
    return this.#tagged(tag).some((segment) => segment.place !== "device") ? "BUFFER_ASLEEP" : undefined;
  }

  markDirty(tag: string): void {
    for (const segment of this.#tagged(tag)) {
      segment.immutable = false;
      segment.backedUp = false;
    }
  }

  #tagged(tag: string): ModelSegment[] {
    return this.segments.filter((segment) => segment.tag === tag);
  }

  // Memory.

  free(device: number): number {
    return this.options.deviceBytes - this.mappedBytes(device);
  }

  mappedBytes(device: number): number {
    return sum(this.segments.filter((segment) => segment.place === "device" && segment.device === device));
  }

  /** The size of the segment for one buffer. */
  segmentBytes(sizeBytes: number): number {
    return roundUp(sizeBytes, granularity);
  }

  /** The size of the segment that a pool takes when it has no room. */
  poolSegmentBytes(sizeBytes: number): number {
    return roundUp(Math.max(roundUp(sizeBytes, alignment), this.options.poolSegmentBytes), granularity);
  }

  poolSegments(tag: string, device: number): ModelSegment[] {
    return this.segments.filter(
      (segment) => segment.pooled && segment.tag === tag && segment.device === device,
    );
  }

  /** Whether some segment of the pool that is awake has a gap for a buffer. */
  poolHasRoom(tag: string, device: number, sizeBytes: number): boolean {
    return this.poolSegments(tag, device).some((segment) => {
      if (segment.place !== "device" || segment.immutable) return false;
      const inside = this.buffers
        .filter((buffer) => buffer.segment === segment)
        .sort((a, b) => a.address - b.address);
      let end = segment.address;
      for (const buffer of inside) {
        if (buffer.address - end >= roundUp(sizeBytes, alignment)) return true;
        end = roundUp(buffer.address + buffer.sizeBytes, alignment);
      }
      return segment.address + segment.sizeBytes - end >= roundUp(sizeBytes, alignment);
    });
  }

  addSegment(segment: Omit<ModelSegment, "place" | "immutable" | "backedUp">): ModelSegment {
    const added = { ...segment, place: "device" as const, immutable: false, backedUp: false };
    this.segments.push(added);
    return added;
  }

  addBuffer(segment: ModelSegment, address: number, sizeBytes: number): ModelBuffer {
    const buffer = { segment, address, sizeBytes, bytes: new Uint8Array(sizeBytes), known: [] };
    this.buffers.push(buffer);
    return buffer;
  }

  /** Freeing the last buffer frees its segment. */
  remove(buffer: ModelBuffer): void {
    this.buffers = this.buffers.filter((other) => other !== buffer);
    if (this.buffers.some((other) => other.segment === buffer.segment)) return;
    this.segments = this.segments.filter((segment) => segment !== buffer.segment);
  }

  write(buffer: ModelBuffer, source: Uint8Array, offset: number): void {
    buffer.bytes.set(source, offset);
    if (this.options.mistake === "forgets a byte" && source.length > 100) buffer.bytes[offset + 50] = 0;
    const end = offset + source.length;
    buffer.known = buffer.known.filter((extent) => extent.offset < offset || extent.end > end);
    if (end > offset) buffer.known.push({ offset, end });
  }

  // Sleep and wake.

  fateOf(tag: string, request: SleepRequest): Fate {
    const level = request.level ?? 1;
    if (tag === "sleep_persistent" || level === 0) return "keep";
    if (request.tags && !request.tags.includes(tag)) return "keep";
    if (request.offloadTags) return request.offloadTags.includes(tag) ? "offload" : "discard";
    return (this.policies[tag] ?? { 1: "discard", 2: "discard" })[level];
  }

  /** The place of a segment after a sleep. */
  placeAfterSleep(segment: ModelSegment, request: SleepRequest): Place {
    switch (this.fateOf(segment.tag, request)) {
      case "keep":
        return segment.place;
      case "offload":
        return segment.place === "device" ? "host" : segment.place;
      case "discard":
        return "nowhere";
    }
  }

  placeAfterWake(segment: ModelSegment, request: WakeRequest): Place {
    return request.tags === undefined || request.tags.includes(segment.tag) ? "device" : segment.place;
  }

  /** The segments that a sleep moves to the host, or drops the content of. */
  sleepMoves(request: SleepRequest) {
    const moving = this.segments.filter(
      (segment) => this.placeAfterSleep(segment, request) !== segment.place,
    );
    const to = (place: Place) => moving.filter((segment) => this.placeAfterSleep(segment, request) === place);
    return { moving, offloaded: to("host"), discarded: to("nowhere") };
  }

  wakeMoves(request: WakeRequest) {
    const moving = this.segments.filter((segment) => this.placeAfterWake(segment, request) !== segment.place);
    const from = (place: Place) => moving.filter((segment) => segment.place === place);
    return { moving, restored: from("host"), remapped: from("nowhere") };
  }

  hostBytes(): number {
    return sum(this.segments.filter((segment) => segment.backedUp));
  }

  /** Bytes of the new backups that a sleep makes. */
  copiedBytes(request: SleepRequest): number {
    return sum(this.sleepMoves(request).offloaded.filter((segment) => !segment.backedUp));
  }

  hostBytesLeft(): number {
    return Math.max(0, this.options.hostBudgetBytes - this.hostBytes());
  }

  /** The code with which a sleep throws before it begins. */
  sleepRefusal(request: SleepRequest): "HOST_BUDGET_EXCEEDED" | undefined {
    if (this.options.spills) return undefined;
    return this.copiedBytes(request) > this.hostBytesLeft() ? "HOST_BUDGET_EXCEEDED" : undefined;
  }

  /** Bytes that a wake-up takes on each device. */
  wakeNeeds(request: WakeRequest): { device: number; neededBytes: number; freeBytes: number }[] {
    const { moving } = this.wakeMoves(request);
    return this.#byDevice(moving).map(({ device, bytes }) => ({
      device,
      neededBytes: bytes,
      freeBytes: this.free(device),
    }));
  }

  /** Sums by device, without devices that have nothing. */
  #byDevice(segments: readonly ModelSegment[]): { device: number; bytes: number }[] {
    return [...Array(this.options.deviceCount).keys()]
      .map((device) => ({ device, bytes: sum(segments.filter((segment) => segment.device === device)) }))
      .filter(({ bytes }) => bytes > 0);
  }

  wakeRefusal(request: WakeRequest): "OUT_OF_DEVICE_MEMORY" | undefined {
    return this.wakeNeeds(request).some(({ neededBytes, freeBytes }) => neededBytes > freeBytes)
      ? "OUT_OF_DEVICE_MEMORY"
      : undefined;
  }

  sleepReport(request: SleepRequest) {
    const { moving, offloaded, discarded } = this.sleepMoves(request);
    const concerned = this.segments.filter((segment) => this.fateOf(segment.tag, request) !== "keep");
    const after = this.segments.filter((segment) => this.placeAfterSleep(segment, request) === "device");
    return {
      level: request.offloadTags ? null : (request.level ?? 1),
      offloadedBytes: sum(offloaded),
      copiedBytes: this.copiedBytes(request),
      discardedBytes: sum(discarded),
      keptBytes: sum(after),
      freedBytes: sum(moving.filter((segment) => segment.place === "device")),
      alreadySleeping: moving.length === 0 && concerned.length > 0,
    };
  }

  wakeReport(request: WakeRequest) {
    const { moving, restored, remapped } = this.wakeMoves(request);
    const asleep = this.segments.filter((segment) => this.placeAfterWake(segment, request) !== "device");
    return {
      restoredBytes: sum(restored),
      remappedBytes: sum(remapped),
      zeroedBytes: sum(remapped.filter((segment) => this.#zeroes(segment, request))),
      lostTags: tagsOf(remapped).sort(),
      stillAsleep: tagsOf(asleep).sort(),
      alreadyAwake: moving.length === 0,
    };
  }

  sleepPlan(request: SleepRequest) {
    const { moving, offloaded, discarded } = this.sleepMoves(request);
    return {
      tags: this.#byTag(moving, (own) => ({
        offloadBytes: sum(own.filter((segment) => offloaded.includes(segment))),
        discardBytes: sum(own.filter((segment) => discarded.includes(segment))),
        restoreBytes: 0,
        remapBytes: 0,
      })),
      devices: [],
      freed: this.#byDevice(moving.filter(({ place }) => place === "device")).map(({ device, bytes }) => ({
        device,
        freedBytes: bytes,
      })),
      host: this.#hostPlan(this.copiedBytes(request)),
      spill: null,
      fits: this.sleepRefusal(request) === undefined,
    };
  }

  #hostPlan(neededBytes: number) {
    const finite = (bytes: number) => (Number.isFinite(bytes) ? bytes : null);
    return {
      neededBytes,
      freeBytes: finite(this.hostBytesLeft()),
      budget: { sizeBytes: finite(this.options.hostBudgetBytes), source: "option", path: null },
    };
  }

  wakePlan(request: WakeRequest) {
    const { moving, restored, remapped } = this.wakeMoves(request);
    return {
      tags: this.#byTag(moving, (own) => ({
        offloadBytes: 0,
        discardBytes: 0,
        restoreBytes: sum(own.filter((segment) => restored.includes(segment))),
        remapBytes: sum(own.filter((segment) => remapped.includes(segment))),
      })),
      devices: this.wakeNeeds(request),
      freed: [],
      host: this.#hostPlan(0),
      spill: null,
      fits: this.wakeRefusal(request) === undefined,
    };
  }

  /** The segments of `among` that were not freed since the transition began. */
  sleep(request: SleepRequest, among: readonly ModelSegment[] = this.segments): void {
    for (const segment of among) this.place(segment, this.placeAfterSleep(segment, request));
  }

  wake(request: WakeRequest, among: readonly ModelSegment[] = this.segments): void {
    for (const segment of among) {
      const isZeroed =
        segment.place === "nowhere" &&
        this.placeAfterWake(segment, request) === "device" &&
        this.#zeroes(segment, request);
      this.place(segment, this.placeAfterWake(segment, request));
      if (isZeroed) this.#setZero(segment);
    }
  }

  /** Whether a wake-up zeroes a segment that has lost its content. */
  #zeroes({ tag }: ModelSegment, request: WakeRequest): boolean {
    return request.zero ?? this.policies[tag]?.zero ?? false;
  }

  #setZero(segment: ModelSegment): void {
    for (const buffer of this.buffers) {
      if (buffer.segment !== segment) continue;
      buffer.bytes.fill(0);
      buffer.known = [{ offset: 0, end: buffer.sizeBytes }];
    }
  }

  place(segment: ModelSegment, place: Place): void {
    const before = segment.place;
    segment.place = place;
    if (before === "device" && place === "host") {
      segment.backedUp = true;
      segment.immutable ||= this.isImmutable(segment.tag);
    }
    if (before === "host" && place === "device") {
      segment.immutable ||= this.isImmutable(segment.tag);
      segment.backedUp =
        segment.immutable && this.options.mistake !== "forgets that immutable content has a backup";
    }
    if (place !== "nowhere") return;
    segment.immutable = false;
    segment.backedUp = false;
    for (const buffer of this.buffers) if (buffer.segment === segment) buffer.known = [];
  }

  // Reports.

  isSleeping(): boolean {
    return this.segments.some((segment) => segment.place !== "device");
  }

  currentUsage(tag?: string): number {
    return sum(this.segments.filter((segment) => tag === undefined || segment.tag === tag));
  }

  usage() {
    return this.#byTag(this.segments, (own) => {
      const at = (place: Place) => sum(own.filter((segment) => segment.place === place));
      const awake = own.filter((segment) => segment.place === "device").length;
      return {
        mappedBytes: at("device"),
        hostBytes: sum(own.filter((segment) => segment.backedUp)),
        pageableBytes: 0,
        spilledBytes: 0,
        checkpointBytes: 0,
        discardedBytes: at("nowhere"),
        segments: own.length,
        state: awake === own.length ? "awake" : awake === 0 ? "asleep" : "partial",
      };
    });
  }

  /** Committed bytes of the device and the host. */
  committed() {
    const mapped = this.segments.filter((segment) => segment.place === "device");
    return {
      physicalHandles: mapped.length,
      physicalBytes: sum(mapped),
      reservations: this.segments.length,
      reservedBytes: sum(this.segments),
      mappings: mapped.length,
      mappedBytes: sum(mapped),
      deviceAllocations: 0,
      deviceAllocationBytes: 0,
      hostRegistrations: 0,
      queuedTasks: 0,
    };
  }

  #byTag<T>(segments: readonly ModelSegment[], describe: (own: ModelSegment[]) => T): Record<string, T> {
    return Object.fromEntries(
      tagsOf(segments).map((tag) => [tag, describe(segments.filter((segment) => segment.tag === tag))]),
    );
  }
}
