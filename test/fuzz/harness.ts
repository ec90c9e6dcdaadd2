/** The shipped allocator and the model side by side, and the comparison of the two. */

import { dlopen, ptr as pointerOf } from "bun:ffi";
import { tmpdir } from "node:os";
import { type AllocatorOptions, CaMemAllocator, CamemError, type DeviceBuffer, type HostUsage } from "camem";
import { emulatorLibraryPath } from "../../src/ffi/index.ts";
import { accounting, MiB, nothingHeld, setFaults } from "../support/device.ts";
import { openPluggable } from "../support/pluggable.ts";
import type { ForeignCall } from "./foreign-thread.ts";
import { type Mistake, Model, type ModelBuffer, type ModelSegment, type Place } from "./model.ts";
import type { Random } from "./random.ts";

/** Small enough that memory runs short now and then. The emulator reads it when it is opened. */
const deviceBytes = 24 * MiB;
export const deviceCount = 2;
export const emulatorEnvironment = {
  CAMEM_BACKEND: "emulator",
  CAMEM_EMULATOR_DEVICES: String(deviceCount),
  CAMEM_EMULATOR_HBM: String(deviceBytes),
};

/** The allocator and the model disagree. */
export class Divergence extends Error {
  override readonly name = "Divergence";
}

const show = (value: unknown) =>
  JSON.stringify(value, (_, each) => (each instanceof Error ? String(each) : each)) ?? String(value);

export function expectSame(what: string, real: unknown, model: unknown): void {
  if (Bun.deepEquals(real, model)) return;
  throw new Divergence(`${what}: the allocator has ${show(real)}, the model ${show(model)}`);
}

export function expectThat(truth: boolean, what: string): asserts truth {
  if (!truth) throw new Divergence(what);
}

export type Outcome<T> =
  | { readonly value: T; readonly error?: undefined }
  | { readonly error: CamemError; readonly value?: undefined };

/** Errors of the package are outcomes; any other error is a divergence. */
export async function attempt<T>(run: () => T | Promise<T>): Promise<Outcome<T>> {
  try {
    return { value: await run() };
  } catch (error) {
    if (error instanceof CamemError) return { error };
    throw error;
  }
}

export function attemptNow<T>(run: () => T): Outcome<T> {
  try {
    return { value: run() };
  } catch (error) {
    if (error instanceof CamemError) return { error };
    throw error;
  }
}

/** A buffer of the allocator and of the model; memory of `my_malloc` has no buffer object. */
export interface Live {
  readonly model: ModelBuffer;
  readonly real: DeviceBuffer | undefined;
}

const releasedWithinMs = 2000;

const stateNames = { device: "mapped", host: "offloaded", nowhere: "discarded" } as const;
export const stateOf = (segment: ModelSegment) => stateNames[segment.place];

const copyKind = { toDevice: 1, toHost: 2 } as const;

function openCopies() {
  return dlopen(emulatorLibraryPath, {
    aclrtSetDevice: { args: ["i32"], returns: "i32" },
    aclrtResetDevice: { args: ["i32"], returns: "i32" },
    aclrtMemcpy: { args: ["u64", "u64", "u64", "u64", "i32"], returns: "i32" },
  }).symbols;
}

/** Copies like an engine, without the package; false when AscendCL refuses. */
export class EngineCopies {
  readonly #acl = openCopies();
  readonly #ptr = (bytes: Uint8Array) => pointerOf(bytes);

  write(device: number, address: number, source: Uint8Array): boolean {
    return this.#copy(device, address, this.#ptr(source), source.length, copyKind.toDevice);
  }

  read(device: number, address: number, target: Uint8Array): boolean {
    return this.#copy(device, this.#ptr(target), address, target.length, copyKind.toHost);
  }

  #copy(device: number, to: number, from: number, sizeBytes: number, kind: number): boolean {
    if (this.#acl.aclrtSetDevice(device) !== 0) return false;
    const code = this.#acl.aclrtMemcpy(to, sizeBytes, from, sizeBytes, kind);
    this.#acl.aclrtResetDevice(device);
    return code === 0;
  }
}

export interface Region {
  readonly tag: string;
  readonly leave: () => Promise<void>;
}

/** The allocator and the model under test, with all buffers that are alive. */
interface Setting {
  readonly poolSegmentBytes: number;
  readonly hostBudgetBytes: number;
  readonly retain: string;
  readonly spills: boolean;
  readonly pageable: boolean;
  readonly verify: boolean;
}

function randomSetting(random: Random): Setting {
  return {
    poolSegmentBytes: random.pick([2, 2, 4]) * MiB,
    hostBudgetBytes: random.pick([Number.POSITIVE_INFINITY, 24 * MiB, 10 * MiB]),
    retain: random.pick(["none", "all", "8MiB"]),
    spills: random.oneIn(3),
    pageable: random.oneIn(3),
    verify: random.oneIn(4),
  };
}

export class Harness {
  #opened: { readonly allocator: CaMemAllocator; readonly model: Model } | undefined;
  lives: Live[] = [];
  /** Open `useMemoryPool` bodies, in the order in which they were entered. */
  regions: Region[] = [];
  /** Counts of outcomes that the driver does not choose. */
  readonly notes = new Map<string, number>();
  readonly pluggable = openPluggable();
  readonly copies = new EngineCopies();
  readonly #mistake: Mistake | undefined;
  readonly #foreign = new Worker(new URL("./foreign-thread.ts", import.meta.url));

  constructor(mistake: Mistake | undefined) {
    this.#mistake = mistake;
  }

  get allocator(): CaMemAllocator {
    return this.#pair.allocator;
  }

  get model(): Model {
    return this.#pair.model;
  }

  get #pair() {
    if (this.#opened === undefined) throw new TypeError("open() comes first");
    return this.#opened;
  }

  /** Opens with a fault: a failed open holds nothing, a successful one is closed again. */
  async #openWithFault(config: AllocatorOptions, random: Random, log: (text: string) => void): Promise<void> {
    const fault = `*:${random.magnitude(1, 12)}=507899`;
    log(`open with ${fault}`);
    setFaults(fault);
    const outcome = attemptNow(() => CaMemAllocator.getInstance(config));
    setFaults("");
    this.note(outcome.error ? "getInstance(): failed" : "getInstance(): unharmed");
    if (outcome.value) await outcome.value.close();
    this.expectNothingHeld();
  }

  /** Opens a new allocator with random options, and its model. */
  async open(random: Random, log: (text: string) => void): Promise<void> {
    this.lives = [];
    this.regions = [];
    setFaults("");
    const { poolSegmentBytes, hostBudgetBytes, retain, spills, pageable, verify } = randomSetting(random);
    const hostBudget = Number.isFinite(hostBudgetBytes) ? hostBudgetBytes : "unlimited";
    const spill = spills ? { spillDir: tmpdir() } : {};
    const config = { poolSegment: poolSegmentBytes, verify, retain, pageable, hostBudget, ...spill };
    if (random.oneIn(2)) await this.#openWithFault(config, random, log);
    const allocator = CaMemAllocator.getInstance(config);
    const free = [0, 1].map((device) => allocator.memGetInfo(device).freeBytes);
    expectSame("free memory of a new allocator", free, [deviceBytes, deviceBytes]);
    const mistake = this.#mistake;
    const options = {
      deviceCount,
      deviceBytes,
      hostBudgetBytes,
      poolSegmentBytes,
      spills,
      pageable,
      mistake,
    };
    const model = new Model(options);
    this.#opened = { allocator, model };
    for (const tag of ["weights", "buffers", "adapters"]) {
      if (random.oneIn(2)) continue;
      allocator.defineTag(tag, { 1: "offload", immutable: true });
      model.defineTag(tag, { 1: "offload", immutable: true });
    }
  }

  note(outcome: string): void {
    this.notes.set(outcome, (this.notes.get(outcome) ?? 0) + 1);
  }

  stop(): void {
    this.#foreign.terminate();
  }

  /** Calls on the foreign thread. */
  onForeignThread(call: ForeignCall): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#foreign.onmessage = ({ data }) => resolve(data);
      this.#foreign.onerror = (event) => reject(new Error(event.message));
      this.#foreign.postMessage(call);
    });
  }

  /** The tag of native allocations at this moment. */
  regionTag(): string {
    return this.regions.at(-1)?.tag ?? "default";
  }

  /** The code that refuses a region of `tag` outside the open regions. */
  regionRefusal(tag: string): string | undefined {
    return this.regions.some((region) => region.tag !== tag) ? "STATE_CONFLICT" : undefined;
  }

  /** Tags that are known for certain: in use, preset or defined. */
  knownTags(): string[] {
    const inUse = this.model.segments.map((segment) => segment.tag);
    return [...new Set(["sleep_persistent", ...Object.keys(this.model.policies), ...inUse])];
  }

  /** Adds a buffer with its own segment, or native memory. */
  adopt(
    address: number,
    sizeBytes: number,
    tag: string,
    device: number,
    real: DeviceBuffer | undefined,
  ): Live {
    const segmentBytes = this.model.segmentBytes(sizeBytes);
    const segment = this.model.addSegment({ address, sizeBytes: segmentBytes, tag, device, pooled: false });
    const live = { model: this.model.addBuffer(segment, address, sizeBytes), real };
    this.lives.push(live);
    return live;
  }

  /** Adds a pool's buffer, in a known segment or at the start of a new one. */
  adoptPooled(real: DeviceBuffer): Live {
    const { ptr, sizeBytes, tag, device } = real;
    const existing = this.model
      .poolSegments(tag, device)
      .find((segment) => ptr >= segment.address && ptr < segment.address + segment.sizeBytes);
    const segmentBytes = this.model.poolSegmentBytes(sizeBytes);
    const segment =
      existing ?? this.model.addSegment({ address: ptr, sizeBytes: segmentBytes, tag, device, pooled: true });
    const live = { model: this.model.addBuffer(segment, ptr, sizeBytes), real };
    this.lives.push(live);
    return live;
  }

  forget(live: Live): void {
    this.model.remove(live.model);
    this.lives = this.lives.filter((other) => other !== live);
  }

  readInto(live: Live, target: Uint8Array, offset: number): void {
    const { model, real } = live;
    if (real) real.readInto(target, offset);
    else {
      const done = this.copies.read(model.segment.device, model.address + offset, target);
      expectThat(done, `native memory at ${model.address} cannot be read`);
    }
  }

  /**
   * What AscendCL refused to take back is tried again with the next allocation and the next transition, on a thread of the
   * allocator's: waits until that is done.
   */
  async awaitRelease(): Promise<void> {
    await this.#await(() => accounting().reservations === this.model.segments.length);
  }

  /** Compares host memory. What nothing needs any more is given back by the same thread: waits until that is done. */
  async compareHostMemory(): Promise<void> {
    const deadlineMs = performance.now() + releasedWithinMs;
    for (;;) {
      try {
        return this.#compareHostMemory();
      } catch (error) {
        if (performance.now() > deadlineMs) throw error;
      }
      await new Promise(setImmediate);
    }
  }

  #compareHostMemory(): void {
    const host = this.allocator.hostUsage();
    expectSame("page-locked bytes", host.pageLockedBytes, accounting().hostAllocationBytes);
    this.#comparePlaces(host);
  }

  async #await(condition: () => boolean): Promise<void> {
    const deadlineMs = performance.now() + releasedWithinMs;
    while (!condition() && performance.now() < deadlineMs) await new Promise(setImmediate);
  }

  #hasNeedlessStaging(): boolean {
    const { stagingBytes, pageableBytes } = this.allocator.hostUsage();
    return stagingBytes > 0 && pageableBytes === 0 && this.#backups().spilled === 0;
  }

  /** Bytes of backups, by place. */
  #backups(): { readonly inMemory: number; readonly spilled: number; readonly allBytes: number } {
    const tags = Object.values(this.allocator.usage());
    const spilled = tags.reduce((total, own) => total + own.spilledBytes, 0);
    const { pageLockedBytes, freeBytes, stagingBytes, pageableBytes } = this.allocator.hostUsage();
    const inMemory = pageLockedBytes - freeBytes - stagingBytes + pageableBytes;
    return { inMemory, spilled, allBytes: inMemory + spilled };
  }

  /** Usage in the terms of the model, where every backup counts as on the host. */
  usage() {
    return Object.fromEntries(
      Object.entries(this.allocator.usage()).map(([tag, own]) => [
        tag,
        {
          ...own,
          hostBytes: own.hostBytes + own.pageableBytes + own.spilledBytes,
          pageableBytes: 0,
          spilledBytes: 0,
        },
      ]),
    );
  }

  compare(random: Random): void {
    this.#compareState(random);
    for (const live of sample(random, this.lives, 3)) this.#compareRange(random, live);
  }

  /** Buffers, bytes, and what the device has committed. */
  #compareState(random: Random): void {
    const { allocator, model } = this;
    this.#compareBuffers();
    expectSame("usage()", this.usage(), model.usage());
    expectSame("isSleeping", allocator.isSleeping, model.isSleeping());
    expectSame("getCurrentUsage()", allocator.getCurrentUsage(), model.currentUsage());
    const tag = random.pick(this.knownTags());
    expectSame(`getCurrentUsage("${tag}")`, allocator.getCurrentUsage(tag), model.currentUsage(tag));
    for (let device = 0; device < deviceCount; device++) {
      const expected = { freeBytes: model.free(device), totalBytes: deviceBytes };
      expectSame(`memGetInfo(${device})`, allocator.memGetInfo(device), expected);
    }
    const committed = model.committed();
    const names = Object.keys(committed) as (keyof typeof committed)[];
    const held = accounting();
    expectSame("accounting", Object.fromEntries(names.map((name) => [name, held[name]])), committed);
    const pool = allocator.memoryPool(tag, { device: random.below(deviceCount) });
    const reserved = model
      .poolSegments(tag, pool.device)
      .reduce((total, segment) => total + segment.sizeBytes, 0);
    expectSame(`reservedBytes of the pool ${tag} on ${pool.device}`, pool.reservedBytes, reserved);
  }

  /** Where backups are: the options permit it, and page-locked memory holds nothing else. */
  #comparePlaces(host: HostUsage): void {
    const { model } = this;
    const { spills, pageable, hostBudgetBytes } = model.options;
    const { inMemory, spilled, allBytes } = this.#backups();
    expectSame("bytes of backups", allBytes, model.hostBytes());
    expectThat(inMemory <= hostBudgetBytes, "backups beyond the host budget");
    expectThat(spills || spilled === 0, "something spilled without a folder");
    expectThat(pageable || host.pageableBytes === 0, "backups in ordinary memory without the option");
    expectThat(!this.#hasNeedlessStaging(), "staging is kept without need");
  }

  #compareBuffers(): void {
    for (const { real, model } of this.lives) {
      if (real === undefined) continue;
      const { ptr, sizeBytes, state, tag, device } = real;
      const seen = { ptr: Number(ptr), sizeBytes, state, tag, device };
      expectSame("buffer", seen, {
        ptr: model.address,
        sizeBytes: model.sizeBytes,
        state: stateOf(model.segment),
        tag: model.segment.tag,
        device: model.segment.device,
      });
      expectSame("immutable", real.immutable, model.segment.immutable);
    }
  }

  #compareRange(random: Random, live: Live): void {
    const { known, segment } = live.model;
    if (known.length === 0) return;
    const extent = random.pick(known);
    const offset = extent.offset + random.below(extent.end - extent.offset);
    const count = Math.min(extent.end - offset, random.between(1, 4096));
    if (segment.place === "device") this.#compareBytes(live, offset, count);
    else if (segment.place === "host") this.#compareBackup(live, offset, count);
  }

  #compareBytes(live: Live, offset: number, count: number): void {
    const real = new Uint8Array(count);
    this.readInto(live, real, offset);
    this.#expectBytes(live, real, offset, "content");
  }

  #compareBackup(live: Live, offset: number, count: number): void {
    const { segment, address } = live.model;
    const backup = this.allocator.backup(segment.tag).find((each) => each.ptr === segment.address);
    expectThat(backup !== undefined, `backup("${segment.tag}") lacks the segment at ${segment.address}`);
    expectSame("size of the backup", backup.sizeBytes, segment.sizeBytes);
    const real = backup.read(address - segment.address + offset, count);
    this.#expectBytes(live, real, offset, "backup");
  }

  #expectBytes({ model }: Live, real: Uint8Array, offset: number, what: string): void {
    const expected = model.bytes.subarray(offset, offset + real.length);
    if (Buffer.compare(real, expected) === 0) return;
    const at = real.findIndex((byte, index) => byte !== expected[index]);
    throw new Divergence(
      `${what} of ${model.sizeBytes} bytes at ${model.address} (${model.segment.tag}): byte ${offset + at} is ${real[at]}, the model has ${expected[at]}`,
    );
  }

  /** Compares every defined byte that is awake. */
  compareContents(): void {
    for (const live of this.lives) {
      if (live.model.segment.place !== "device") continue;
      for (const { offset, end } of live.model.known) this.#compareBytes(live, offset, end - offset);
    }
  }

  /** The place of native memory, as far as it is visible from outside. */
  placeOf({ real, model }: Live): Place {
    const state = real?.state;
    if (state === "mapped") return "device";
    if (state === "offloaded") return "host";
    if (state === "discarded") return "nowhere";
    expectThat(state === undefined, `a buffer is ${state} after the transition has ended`);
    const { segment, address } = model;
    if (this.copies.read(segment.device, address, new Uint8Array(1))) return "device";
    const backups = this.allocator.backup(segment.tag);
    return backups.some((backup) => backup.ptr === segment.address) ? "host" : "nowhere";
  }

  /** Asserts that nothing is held after `close()`. */
  expectNothingHeld(): void {
    expectSame("accounting after close()", accounting(), nothingHeld);
  }
}

function sample(random: Random, lives: readonly Live[], count: number): Live[] {
  if (lives.length === 0) return [];
  return Array.from({ length: count }, () => random.pick(lives));
}
